//! placeholder
use super::{Path, Position};
use serde::de::DeserializeOwned;
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span { pub start: Position, pub end: Position }
#[derive(Debug, Clone, PartialEq)]
pub struct Node { pub span: Option<Span>, pub value: Value }
#[derive(Debug, Clone, PartialEq)]
pub enum Value { Null, Bool(bool), Integer(i64), Float(f64), String(String), Sequence(Vec<Node>), Mapping(Vec<Entry>) }
#[derive(Debug, Clone, PartialEq)]
pub struct Entry { pub key: String, pub key_span: Option<Span>, pub value: Node }
#[derive(Debug, Clone, PartialEq)]
pub struct Fault { pub code: &'static str, pub path: Path, pub span: Option<Span>, pub message: String, pub help: Option<String>, pub related: Vec<(String, Option<Span>)> }
pub const UNKNOWN_FIELD: &str = "US101";
pub const WRONG_TYPE: &str = "US102";
pub const WRONG_VALUE: &str = "US103";
pub const MISSING_FIELD: &str = "US105";
pub fn yaml(_text: &str) -> (Vec<Node>, Vec<Fault>) { todo!() }
pub fn json(_bytes: &[u8]) -> Result<(Node, Vec<Fault>), Fault> { todo!() }
impl Node { pub fn span_of(&self, _path: &Path) -> Option<Span> { todo!() }
 pub fn from_json(_value: &serde_json::Value) -> Node { todo!() } }
pub fn decode<T: DeserializeOwned>(_node: &Node, _path: &Path) -> (Option<T>, Vec<Fault>) { todo!() }
