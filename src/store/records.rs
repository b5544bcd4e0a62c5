//! What the database holds, and how it is encoded.

use std::sync::Arc;

use jiff::Timestamp;
use prost::Message;
use serde_json::Value;

use crate::access::tokens::Token;
use crate::config::document::Kind;
use crate::config::edit::Edit;

#[expect(unreachable_pub, reason = "generated; proto/understudy/store/v1/store.proto has the comments")]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/understudy.store.v1.rs"));
}

/// By what road a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Files that were saved.
    Files,
    /// A write over REST.
    Api,
    /// A write over REST that put back what was.
    Rollback,
}

impl Source {
    const ALL: [Self; 3] = [Self::Files, Self::Api, Self::Rollback];

    /// Its word in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Api => "api",
            Self::Rollback => "rollback",
        }
    }
}

/// An accepted change.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// From 1, without gaps.
    pub number: u64,
    /// When it was accepted.
    pub time: Timestamp,
    /// The files, or who wrote over REST.
    pub author: String,
    /// What the author gave as reason.
    pub reason: Option<String>,
    /// What changed, in words.
    pub summary: String,
    /// By what road it came.
    pub source: Source,
    /// What changed, as it was and as it became.
    pub edits: Vec<Edit>,
    /// Why it was taken back, in the words of the Envoy that was asked first; none when it was not.
    pub error: Option<String>,
    /// The Envoys that refused it, by node id: the one that was asked first, or others when it was in effect.
    pub refused_by: Vec<String>,
}

/// What a request was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The revision that it made; none when nothing had to change.
    pub revision: Option<u64>,
    /// Of HTTP.
    pub status: u16,
    /// Where what was created is.
    pub location: Option<String>,
    /// Of what the body shows.
    pub etag: Option<String>,
    /// Null for none.
    pub body: Value,
}

/// An answer that is kept, so that the same request is answered the same and changes nothing more.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// When it was given.
    pub time: Timestamp,
    /// The hash of the request.
    pub request: u128,
    /// What it was.
    pub answer: Answer,
}

/// Such as `upstreams/checkout`, for errors.
pub(super) fn entity(body: &Value) -> Vec<u8> {
    messages::Entity { body: body.to_string() }.encode_to_vec()
}

pub(super) fn read_entity(bytes: &[u8]) -> Option<Arc<Value>> {
    let record = messages::Entity::decode(bytes).ok()?;
    serde_json::from_str(&record.body).ok().map(Arc::new)
}

pub(super) fn revision(revision: &Revision) -> Vec<u8> {
    let text = |body: &Option<Arc<Value>>| body.as_ref().map(|body| body.to_string());
    let edits = revision.edits.iter().map(|edit| messages::Edit {
        kind: edit.kind.plural().to_owned(),
        name: edit.name.clone(),
        before: text(&edit.before),
        after: text(&edit.after),
        file: edit.file.as_ref().map(ToString::to_string),
    });
    messages::Revision {
        time: revision.time.as_millisecond(),
        author: revision.author.clone(),
        reason: revision.reason.clone().unwrap_or_default(),
        summary: revision.summary.clone(),
        source: revision.source.word().to_owned(),
        edits: edits.collect(),
        error: revision.error.clone().unwrap_or_default(),
        refused_by: revision.refused_by.clone(),
    }
    .encode_to_vec()
}

pub(super) fn read_revision(number: u64, bytes: &[u8]) -> Option<Revision> {
    let record = messages::Revision::decode(bytes).ok()?;
    let body = |text: Option<String>| match text {
        Some(text) => serde_json::from_str(&text).ok().map(|body| Some(Arc::new(body))),
        None => Some(None),
    };
    let edit = |edit: messages::Edit| {
        Some(Edit {
            kind: Kind::from_plural(&edit.kind)?,
            name: edit.name,
            before: body(edit.before)?,
            after: body(edit.after)?,
            file: edit.file.map(Into::into),
        })
    };
    Some(Revision {
        number,
        time: Timestamp::from_millisecond(record.time).ok()?,
        author: record.author,
        reason: Some(record.reason).filter(|reason| !reason.is_empty()),
        summary: record.summary,
        source: Source::ALL.into_iter().find(|source| source.word() == record.source)?,
        edits: record.edits.into_iter().map(edit).collect::<Option<_>>()?,
        error: Some(record.error).filter(|error| !error.is_empty()),
        refused_by: record.refused_by,
    })
}

pub(super) fn kept(kept: &Kept) -> Vec<u8> {
    let Kept { time, request, answer } = kept;
    messages::Answer {
        time: time.as_millisecond(),
        request: request.to_le_bytes().to_vec(),
        revision: answer.revision.unwrap_or_default(),
        status: answer.status.into(),
        location: answer.location.clone().unwrap_or_default(),
        etag: answer.etag.clone().unwrap_or_default(),
        body: if answer.body.is_null() { String::new() } else { answer.body.to_string() },
    }
    .encode_to_vec()
}

pub(super) fn read_kept(bytes: &[u8]) -> Option<Kept> {
    let record = messages::Answer::decode(bytes).ok()?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let body = some(record.body).map_or(Ok(Value::Null), |body| serde_json::from_str(&body)).ok()?;
    Some(Kept {
        time: Timestamp::from_millisecond(record.time).ok()?,
        request: u128::from_le_bytes(record.request.try_into().ok()?),
        answer: Answer {
            revision: Some(record.revision).filter(|revision| *revision > 0),
            status: record.status.try_into().ok()?,
            location: some(record.location),
            etag: some(record.etag),
            body,
        },
    })
}

pub(super) fn token(token: &Token) -> Vec<u8> {
    messages::Token {
        created: token.created.as_millisecond(),
        role: token.role.word().to_owned(),
        hash: token.hash.as_bytes().to_vec(),
    }
    .encode_to_vec()
}

pub(super) fn read_token(name: &str, bytes: &[u8]) -> Option<Token> {
    let record = messages::Token::decode(bytes).ok()?;
    Some(Token {
        name: name.to_owned(),
        role: record.role.parse().ok()?,
        created: Timestamp::from_millisecond(record.created).ok()?,
        hash: blake3::Hash::from_slice(&record.hash).ok()?,
    })
}
