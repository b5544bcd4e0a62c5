//! Decoder of the requests of a stream, from HTTP/2 frames.
//!
//! Written by hand, because tonic's decoder keeps a buffer as large as the largest request for the life of
//! the stream: 60 KB for the first request of every Envoy, and more for its load reports.

use std::error::Error;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tonic::Status;

use crate::access::meter::BufferShare;
use crate::xds::wire::request::{LazyRequest, RequestHead};

/// Largest request, in bytes. Envoy's first request has some 60 KB, and a client that names 100,000 resources
/// needs a few MB.
pub const MAX_REQUEST: usize = 16 << 20;

/// Largest buffer that is reserved when a client announces a request; more is allocated as the data comes.
const MAX_RESERVED: usize = 128 << 10;

/// Length of the prefix of each message: a compression flag and the length of the message.
const PREFIX: usize = 5;

/// Reader of the requests of one stream.
#[derive(Debug)]
pub struct RequestReader {
    body: UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>,
    buffer: BytesMut,
    share: BufferShare,
    last_length: usize,
}

impl RequestReader {
    /// Reads the requests in `body`; the bytes that are buffered are counted in `share`.
    pub fn new<B>(body: B, share: BufferShare) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let body = body.map_err(Into::into).boxed_unsync();
        Self { body, buffer: BytesMut::new(), share, last_length: 0 }
    }

    /// Returns the length of the last request, in bytes.
    pub fn last_length(&self) -> usize {
        self.last_length
    }

    /// Returns the next discovery request, like [`RequestReader::message`] for messages of any kind.
    ///
    /// # Errors
    ///
    /// Fails if the client sends something else than a request, or too large a request.
    pub async fn next<H: RequestHead>(&mut self) -> Result<Option<LazyRequest<H>>, Status> {
        let Some(encoded) = self.message().await? else { return Ok(None) };
        LazyRequest::read(&encoded).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    /// Returns the next request, still encoded; none when the client disconnects or the connection breaks,
    /// since no error could be delivered then. Cancel safe: no data is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// Fails if the client sends something else than a message, or too large a message.
    pub async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.split_message()? {
                return Ok(Some(message));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            let Ok(data) = frame.into_data() else { continue };
            if !self.share.reserve(data.len()) {
                return Err(Status::resource_exhausted("too many large requests are under way"));
            }
            self.buffer.extend_from_slice(&data);
        }
    }

    /// Splits the first request off the buffer, if it is complete.
    fn split_message(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        if length > MAX_REQUEST {
            let error = format!("a request of {length} bytes is larger than {MAX_REQUEST}");
            return Err(Status::out_of_range(error));
        }
        if rest.len() < length {
            let missing = length - rest.len();
            self.buffer.reserve(missing.min(MAX_RESERVED));
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let encoded = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        self.share.release(PREFIX + length);
        self.last_length = length;
        Ok(Some(encoded))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
    use futures_util::FutureExt as _;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use prost::Message as _;

    use super::*;
    use crate::access::meter::BufferMeter;

    /// Returns the version in each request in `bytes`, which come in frames of this size, and the final
    /// error.
    fn read(bytes: &[u8], size: usize) -> (Vec<String>, Option<tonic::Code>) {
        let frames: Vec<_> = bytes
            .chunks(size)
            .map(|chunk| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut requests = RequestReader::new(body, BufferMeter::new(0, usize::MAX).share());
        let mut versions = Vec::new();
        loop {
            match requests.next::<DiscoveryRequest>().now_or_never().expect("all of it is there") {
                Ok(Some(request)) => versions.push(request.head.version_info),
                Ok(None) => return (versions, None),
                Err(status) => return (versions, Some(status.code())),
            }
        }
    }

    fn framed(version: &str) -> Vec<u8> {
        let request = DiscoveryRequest { version_info: version.to_owned(), ..Default::default() };
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(request.encoded_len()).expect("short").to_be_bytes());
        bytes.extend(request.encode_to_vec());
        bytes
    }

    #[test]
    fn requests_are_read_however_they_are_cut() {
        let bytes = [framed("one"), framed(""), framed("three")].concat();
        for size in 1..=bytes.len() {
            assert_eq!(
                read(&bytes, size),
                (vec!["one".into(), String::new(), "three".into()], None),
                "{size}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let after = |bytes: &[u8]| read(&[framed("one"), bytes.to_vec()].concat(), 4).1;
        assert_eq!(after(&[1, 0, 0, 0, 0]), Some(tonic::Code::Unimplemented));
        assert_eq!(after(&[0, 0xFF, 0xFF, 0xFF, 0xFF]), Some(tonic::Code::OutOfRange));
        assert_eq!(after(&[0, 0, 0, 0, 1, 0xFF]), Some(tonic::Code::Internal));
        assert_eq!(after(&framed("cut")[..4]), None, "the client hung up");
    }
}
