//! The body of an answer: its bytes are counted, and it must not stall.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use tokio::time::Sleep;

/// Nothing more came of an answer.
#[derive(Debug, thiserror::Error)]
#[error("no more of the answer came for {0:?}")]
struct Stalled(Duration);

/// A body that fails when nothing comes for a while. The time in which nobody asks for more does
/// not count.
pub(super) struct WatchedBody {
    body: HttpResponseBody,
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl WatchedBody {
    pub(super) fn new(body: HttpResponseBody, stall: Duration) -> Self {
        Self {
            body,
            stall,
            waiting: None,
        }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = None;
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                metrics::counter!("gleaner_store_bytes_read_total").increment(data.len() as u64);
            }
            return Poll::Ready(frame);
        }
        let stall = self.stall;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        match waiting.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.waiting = None;
                let error = HttpError::new(HttpErrorKind::Timeout, Stalled(stall));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `a` at once and `b` after a pause.
    struct Slow {
        pause: Pin<Box<Sleep>>,
        n_sent: u8,
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = HttpError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
            let bytes = match self.n_sent {
                0 => Bytes::from_static(b"a"),
                1 => {
                    std::task::ready!(self.pause.as_mut().poll(context));
                    Bytes::from_static(b"b")
                }
                _ => return Poll::Ready(None),
            };
            self.n_sent += 1;
            Poll::Ready(Some(Ok(Frame::data(bytes))))
        }
    }

    fn slow(pause: u64) -> HttpResponseBody {
        let body = Slow {
            pause: Box::pin(tokio::time::sleep(Duration::from_secs(pause))),
            n_sent: 0,
        };
        HttpResponseBody::new(WatchedBody::new(
            HttpResponseBody::new(body),
            Duration::from_secs(10),
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_comes_and_a_stalled_one_fails() {
        assert_eq!(slow(9).bytes().await.unwrap(), "ab");
        let error = slow(11).bytes().await.unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_is_no_stall() {
        use futures::StreamExt as _;
        let mut stream = slow(1000).bytes_stream();
        assert_eq!(stream.next().await.unwrap().unwrap(), "a");
        tokio::time::sleep(Duration::from_secs(999)).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), "b");
    }
}
