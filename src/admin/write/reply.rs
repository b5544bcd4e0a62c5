//! Reply to a write: status, headers and body, and the form in which it is kept for a repeated request.

use axum::http::StatusCode;
use prost::Message as _;
use serde_json::Value;

use crate::control::operation::OperationReply;

#[expect(unreachable_pub, reason = "generated; proto/understudy/admin/v1/reply.proto has the comments")]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/understudy.admin.v1.rs"));
}

/// Reply to an accepted write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Path of the entity that was created.
    pub(crate) location: Option<String>,
    /// Tag of the body.
    pub(crate) etag: Option<String>,
    /// JSON body; null for none.
    pub(crate) body: Value,
}

impl Reply {
    /// Returns the reply of this status without headers.
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        Self { status, location: None, etag: None, body }
    }
}

impl OperationReply for Reply {
    fn encode(&self) -> Vec<u8> {
        messages::Reply {
            status: self.status.as_u16().into(),
            location: self.location.clone().unwrap_or_default(),
            etag: self.etag.clone().unwrap_or_default(),
            body: if self.body.is_null() { String::new() } else { self.body.to_string() },
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let message = messages::Reply::decode(bytes).ok()?;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let body = some(message.body).map_or(Ok(Value::Null), |body| serde_json::from_str(&body));
        Some(Self {
            status: StatusCode::from_u16(message.status.try_into().ok()?).ok()?,
            location: some(message.location),
            etag: some(message.etag),
            body: body.ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Record of an answer as the versions wrote it in which the store knew of HTTP.
    const OLD_ANSWER: &[u8] = b"\x08\x80\xd8\xbd\xf3\xac3\x12\x10\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x18\x01 \xc9\x01*\x0f/upstreams/shop2\x04\"a1\":\x0f{\"name\":\"shop\"}";

    #[test]
    fn a_reply_that_an_earlier_version_kept_is_read_and_written_the_same() {
        let reply = Reply {
            status: StatusCode::CREATED,
            location: Some("/upstreams/shop".to_owned()),
            etag: Some("\"a1\"".to_owned()),
            body: json!({ "name": "shop" }),
        };
        assert_eq!(Reply::decode(&OLD_ANSWER[27..]).as_ref(), Some(&reply));
        assert_eq!(reply.encode(), OLD_ANSWER[27..]);
    }

    #[test]
    fn a_reply_without_headers_and_body_survives_being_kept() {
        let reply = Reply::new(StatusCode::NO_CONTENT, Value::Null);
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }
}
