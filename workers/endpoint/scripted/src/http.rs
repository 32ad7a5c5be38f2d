//! As much of HTTP/1.1 as clients of language-model servers use.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

/// Longest line of a head.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Lines of a head.
const LINES_MAX: usize = 200;
/// Largest body.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Head and body of a request.
#[derive(Debug, Default)]
pub(crate) struct RawRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl RawRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The next request of a connection; `None` at its end.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
) -> io::Result<Option<RawRequest>> {
    let bad = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let Some(first) = line(reader).await? else {
        return Ok(None);
    };
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(bad("no request line"));
    };
    let mut request = RawRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        ..RawRequest::default()
    };
    loop {
        let Some(text) = line(reader).await? else {
            return Err(bad("the head ends early"));
        };
        if text.is_empty() {
            break;
        }
        if request.headers.len() >= LINES_MAX {
            return Err(bad("too many headers"));
        }
        if let Some((name, value)) = text.split_once(':') {
            request
                .headers
                .push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let length: usize = match request.header("content-length") {
        Some(text) => text.parse().map_err(|_| bad("no length"))?,
        None => 0,
    };
    if length > BODY_BYTES_MAX {
        return Err(bad("the body is too large"));
    }
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).await?;
    Ok(Some(request))
}

async fn line<R: AsyncRead + Unpin>(reader: &mut BufReader<R>) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    reader
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut bytes)
        .await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

/// Head of an answer whose body has `length` bytes.
pub(crate) fn head(status: u16, headers: &[(&str, String)], length: usize) -> Vec<u8> {
    let mut text = format!(
        "HTTP/1.1 {status} {}\r\n",
        if status == 200 { "OK" } else { "Error" }
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!(
        "content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ));
    text.into_bytes()
}
