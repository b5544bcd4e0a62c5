//! TCP connection whose end can be chosen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// End of a connection from our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Fin,
    Rst,
}

/// TCP connection that ends as its [`EndingHandle`] says when its owner drops it. The default is FIN.
pub(super) struct FaultySocket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

/// Handle that chooses the end of a [`FaultySocket`].
pub(super) struct EndingHandle(Arc<AtomicBool>);

impl EndingHandle {
    pub(super) fn set(&self, ending: Ending) {
        self.0.store(ending == Ending::Rst, Ordering::Relaxed);
    }
}

impl FaultySocket {
    pub(super) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true); // A failure costs only latency.
        Self { stream, reset: Arc::default() }
    }

    pub(super) fn ending(&self) -> EndingHandle {
        EndingHandle(self.reset.clone())
    }
}

impl Drop for FaultySocket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger(); // Fails only if the client closed first.
        }
    }
}

impl AsyncRead for FaultySocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for FaultySocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
