//! How much memory unfinished requests take, over all streams.
//!
//! A request is decoded when it is there as a whole, and may have 16 MB. A client can begin many and finish
//! none, so what is held of them all is counted, and beyond a bound large ones are refused.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

/// What each stream may hold whatever the others do: twice the first request of an Envoy.
const FREE: usize = 128 << 10;

/// How much all streams may hold together.
const LIMIT: usize = 256 << 20;

/// The sum over all streams. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    held: Arc<AtomicUsize>,
}

/// The share of one stream. Clones share; it is given back with the last of them.
#[derive(Debug, Clone)]
pub struct Share(Arc<Held>);

#[derive(Debug)]
struct Held {
    all: Meter,
    own: AtomicUsize,
}

impl Meter {
    /// The share of a new stream.
    pub fn share(&self) -> Share {
        Share(Arc::new(Held { all: self.clone(), own: AtomicUsize::new(0) }))
    }
}

impl Share {
    /// Counts bytes that came. False when they are too many.
    fn take(&self, bytes: usize) -> bool {
        let own = self.0.own.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.0.all.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        own <= FREE || all <= LIMIT
    }

    /// Nothing is held any more: the request was decoded. Returns how much it was.
    pub fn give_back(&self) -> usize {
        let own = self.0.own.swap(0, Ordering::Relaxed);
        self.0.all.held.fetch_sub(own, Ordering::Relaxed);
        own
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.held.fetch_sub(*self.own.get_mut(), Ordering::Relaxed);
    }
}

/// A body that is counted.
#[derive(Debug)]
pub struct Metered<B> {
    body: Pin<Box<B>>,
    share: Share,
}

impl<B> Metered<B> {
    /// Counts what comes out of `body`.
    pub fn new(body: B, share: Share) -> Self {
        Self { body: Box::pin(body), share }
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = self.body.as_mut().poll_frame(context);
        polled.map(|frame| {
            let frame = frame?.map_err(Into::into);
            let length = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            match self.share.take(length) {
                true => Some(frame),
                false => {
                    Some(Err(Status::resource_exhausted("too many large requests are under way").into()))
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_requests_are_bounded_together_and_small_ones_are_not() {
        let meter = Meter::default();
        let (hostile, large, small) = (meter.share(), meter.share(), meter.share());
        assert!(hostile.take(LIMIT));
        assert!(!large.take(FREE + 1));
        assert!(small.take(FREE));
        large.give_back();
        hostile.give_back();
        assert!(large.take(FREE + 1));
        drop((hostile, large, small));
        assert_eq!(meter.held.load(Ordering::Relaxed), 0);
    }
}
