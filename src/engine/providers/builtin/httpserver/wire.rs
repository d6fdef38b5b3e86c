//! The bytes of a connection, plain or TLS: what was read to find out the protocol comes first,
//! what happens is counted, and a client that is still sending when its connection closes gets the
//! time to read the answer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::pulse::Pulse;

/// How long a client that sends what nobody wants may go on doing so.
const LINGER: Duration = Duration::from_secs(10);

/// The body of a request. If nobody reads it to its end, the connection lingers when it closes:
/// the client may still be sending then, and would miss the answer.
pub struct Arriving {
    body: Incoming,
    pulse: Arc<Pulse>,
    has_ended: bool,
}

impl Arriving {
    pub fn new(body: Incoming, pulse: Arc<Pulse>) -> Self {
        Self { has_ended: body.is_end_stream(), body, pulse }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // After an error nothing more comes.
        self.has_ended = !matches!(frame, Some(Ok(_))) || self.body.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.has_ended {
            self.pulse.linger();
        }
    }
}

/// A socket with what was read of it.
pub struct Wire<T> {
    io: T,
    read_before: Bytes,
    pulse: Arc<Pulse>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<T> Wire<T> {
    pub fn new(io: T, read_before: Bytes, pulse: Arc<Pulse>) -> Self {
        pulse.has_read();
        Self { io, read_before, pulse, lingering: None }
    }

    fn count(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(_) => self.pulse.has_written(),
            Poll::Pending => self.pulse.write_is_blocked(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_before.has_remaining() {
            let length = self.read_before.len().min(buf.remaining());
            buf.put_slice(&self.read_before.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.has_read();
        }
        result
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Says that nothing more is sent; if need be reads on, since a closed socket with unread data
    /// in it resets the connection, and the client loses an answer it has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if !self.pulse.is_to_linger() {
                return Poll::Ready(Ok(()));
            }
            self.lingering = Some(Box::pin(sleep(LINGER)));
        }
        let mut scrap = [0; 4096];
        loop {
            if let Some(limit) = &mut self.lingering
                && limit.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scrap);
            let result = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf));
            if result.is_err() || buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
