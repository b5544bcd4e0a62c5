//! Encoding of the records in the database.

use std::sync::Arc;

use jiff::Timestamp;
use prost::Message;
use serde_json::Value;

use crate::config::document::Kind;
use crate::config::edit::Edit;
use crate::store::{KeptAnswer, Revision, RevisionHead, RevisionSource, TokenRecord};

#[expect(unreachable_pub, reason = "generated; proto/understudy/store/v1/store.proto has the comments")]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/understudy.store.v1.rs"));
}

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
        reason: present(record.reason),
        summary: record.summary,
        source: source(&record.source)?,
        edits: record.edits.into_iter().map(edit).collect::<Option<_>>()?,
        error: present(record.error),
        refused_by: record.refused_by,
    })
}

/// Reads a revision without decoding its edits.
pub(super) fn read_revision_head(number: u64, bytes: &[u8]) -> Option<RevisionHead> {
    let record = messages::RevisionHead::decode(bytes).ok()?;
    Some(RevisionHead {
        number,
        time: Timestamp::from_millisecond(record.time).ok()?,
        author: record.author,
        reason: present(record.reason),
        summary: record.summary,
        source: source(&record.source)?,
        error: present(record.error),
        refused_by: record.refused_by,
    })
}

fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn source(word: &str) -> Option<RevisionSource> {
    RevisionSource::ALL.into_iter().find(|source| source.word() == word)
}

/// Encodes an answer: its own fields have the numbers up to 3, those of the opaque bytes that follow begin at
/// 4. Concatenated protobuf messages are one message.
pub(super) fn answer(answer: &KeptAnswer) -> Vec<u8> {
    let mut bytes = header(answer.time, answer.request, answer.revision);
    bytes.extend_from_slice(&answer.answer);
    bytes
}

fn header(time: Timestamp, request: u128, revision: Option<u64>) -> Vec<u8> {
    messages::Answer {
        time: time.as_millisecond(),
        request: request.to_le_bytes().to_vec(),
        revision: revision.unwrap_or_default(),
    }
    .encode_to_vec()
}

pub(super) fn read_answer(bytes: &[u8]) -> Option<KeptAnswer> {
    let record = messages::Answer::decode(bytes).ok()?;
    let time = Timestamp::from_millisecond(record.time).ok()?;
    let request = u128::from_le_bytes(record.request.try_into().ok()?);
    let revision = Some(record.revision).filter(|revision| *revision > 0);
    // Fields are encoded in the order of their numbers.
    let answer = bytes.strip_prefix(header(time, request, revision).as_slice())?.to_vec();
    Some(KeptAnswer { time, request, revision, answer })
}

pub(super) fn token(token: &TokenRecord) -> Vec<u8> {
    messages::Token {
        created: token.created.as_millisecond(),
        role: token.role.clone(),
        hash: token.hash.clone(),
    }
    .encode_to_vec()
}

pub(super) fn read_token(name: &str, bytes: &[u8]) -> Option<TokenRecord> {
    let record = messages::Token::decode(bytes).ok()?;
    Some(TokenRecord {
        name: name.to_owned(),
        role: record.role,
        created: Timestamp::from_millisecond(record.created).ok()?,
        hash: record.hash,
    })
}
