//! HTTP as far as the clients of object stores speak it.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request, whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Bytes,
}

/// An answer; `is_closing` breaks the connection after it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// Of a HEAD request: the length without the body.
    pub(super) length: Option<usize>,
    pub(super) is_closing: bool,
    pub(super) is_silent: bool,
}

impl Request {
    /// The access key that signed it.
    pub(super) fn signer(&self) -> &str {
        let signed = self.headers.get("authorization").map_or("", String::as_str);
        let (_, credential) = signed.split_once("Credential=").unwrap_or_default();
        credential.split('/').next().unwrap_or_default()
    }
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(super) fn error(status: u16, code: &str, more: &str) -> Self {
        let body = format!(
            "<Error><Code>{code}</Code><Message>as the test wants it</Message>{more}</Error>"
        );
        Self::new(status, body)
    }
}

pub(super) async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return Ok(None);
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = BTreeMap::new();
    let mut n_bytes = 0;
    loop {
        line.clear();
        n_bytes += stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        if n_bytes > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut body = vec![0; length.parse().map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = decoded(path.trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let query = query.split('&').map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name.to_owned(), decoded(&value.replace('+', " ")))
    });
    Ok(Some(Request {
        method,
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query: query.collect(),
        headers,
        body: body.into(),
    }))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub(super) async fn write_answer(
    stream: &mut BufReader<TcpStream>,
    answer: Answer,
) -> io::Result<()> {
    if answer.is_silent {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!(
        "HTTP/1.1 {} As-The-Test-Wants\r\nContent-Length: {length}\r\nContent-Type: application/xml\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer.body).await?;
    stream.flush().await?;
    match answer.is_closing {
        true => Err(io::ErrorKind::ConnectionReset.into()),
        false => Ok(()),
    }
}
