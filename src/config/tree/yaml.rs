//! Parser of YAML to trees with positions.
//!
//! The underlying parser emits events, so this keeps the open collections on a stack of its own: parsing does
//! not recurse, however deep a text is nested. Anchors are expanded here, and limited here: the nodes that
//! aliases copy count against a budget, those of the text itself do not.
#![expect(clippy::result_large_err, reason = "a fault is the last thing that comes of a text")]

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use crate::config::code::{DUPLICATE_KEY, LIMIT, SYNTAX, WRONG_TYPE, WRONG_VALUE};
use crate::config::tree::{
    Entry, MAX_DEPTH, Node, Schema, Value, duplicates, remove, scalar, settle, tag, words,
};
use crate::config::{Fault, Path, Position, Span, Step};

/// Maximum number of nodes that aliases may add to all documents of a text together (long strings count as
/// several).
const MAX_COPIED: usize = 1_000_000;

pub(super) fn read(text: &str, schema: Schema) -> (Vec<Node>, Vec<Fault>) {
    let mut reader = YamlReader { schema, ..YamlReader::default() };
    // The parser treats NUL as the end of the text.
    if let Some(at) = text.find('\0') {
        let fault = Fault::new(SYNTAX, "a NUL character cannot stand in YAML");
        return (Vec::new(), vec![fault.at(Path::default(), Some(point(position_of(text, at))))]);
    }
    for event in Parser::new_from_str(text) {
        let taken = match event {
            Ok((event, span)) => reader.take(event, place(span)),
            Err(error) => Err(reader.syntax(&error, text)),
        };
        if let Err(fault) = taken {
            reader.faults.push(fault);
            break;
        }
    }
    reader.faults.sort_by_key(|fault| fault.span);
    (reader.documents, reader.faults)
}

fn place(span: saphyr_parser::Span) -> Span {
    Span { start: position(span.start), end: position(span.end) }
}

fn position(marker: Marker) -> Position {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position { line: number(marker.line()), column: number(marker.col().saturating_add(1)) }
}

fn point(position: Position) -> Span {
    Span { start: position, end: position }
}

/// Returns the position of the character at this byte offset.
fn position_of(text: &str, at: usize) -> Position {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position { line: number(line), column: number(column) }
}

/// Finds a tab in the indentation, from this line on. The parser reports a tab only at the position where it
/// stopped.
fn indenting_tab(text: &str, from: Position) -> Option<Position> {
    let lines = (1..).zip(text.lines()).skip_while(|(line, _)| *line < from.line);
    let indenting = |line: &str| {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        line[..indent].find('\t')
    };
    lines
        .filter_map(|(line, text)| {
            let column = u32::try_from(indenting(text)?).ok()? + 1;
            Some(Position { line, column })
        })
        .next()
}

#[derive(Default)]
struct YamlReader {
    schema: Schema,
    documents: Vec<Node>,
    faults: Vec<Fault>,
    open: Vec<Collection>,
    anchors: HashMap<usize, (Node, ExpandedSize)>,
    copied: usize,
}

/// List or mapping that is not complete yet.
struct Collection {
    span: Span,
    /// True if it began with a bracket, so that it also ends with one.
    bracketed: bool,
    anchor: usize,
    size: ExpandedSize,
    parts: Parts,
}

enum Parts {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<MappingKey>, merge: Option<Span>, merged: Vec<Entry> },
}

/// MappingKey whose value comes next.
enum MappingKey {
    Field(String, Span),
    Merge,
    /// MappingKey that was reported as a fault; its value is dropped.
    Refused,
}

/// Cost of copying a node, and the number of levels that it adds.
#[derive(Clone, Copy, Default)]
struct ExpandedSize {
    nodes: usize,
    height: usize,
}

impl ExpandedSize {
    fn scalar(text: &str) -> Self {
        Self { nodes: 1 + text.len() / 32, height: 0 }
    }

    fn of(node: &Node) -> Self {
        let mut size = Self { nodes: 1, height: 0 };
        match &node.value {
            Value::String(text) => size = Self::scalar(text),
            Value::Sequence(elements) => elements.iter().for_each(|element| size.grow(Self::of(element))),
            Value::Mapping(entries) => entries.iter().for_each(|entry| size.grow_by(entry)),
            _ => {}
        }
        size
    }

    fn grow_by(&mut self, entry: &Entry) {
        self.grow(Self::scalar(&entry.key));
        self.grow(Self::of(&entry.value));
    }

    fn grow(&mut self, part: Self) {
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.height = self.height.max(part.height + 1);
    }
}

impl YamlReader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(_) => {
                // The parser keeps the anchors of the previous document, which YAML limits to that document.
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag("seq", tag.as_deref(), span);
                self.start(Parts::Sequence(Vec::new()), anchor, span)
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag("map", tag.as_deref(), span);
                let parts =
                    Parts::Mapping { entries: Vec::new(), key: None, merge: None, merged: Vec::new() };
                self.start(parts, anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Nothing => Ok(()),
        }
    }

    /// Returns the path of the next node.
    fn path(&self) -> Path {
        let step = |collection: &Collection| match &collection.parts {
            Parts::Sequence(elements) => Some(Step::Index(elements.len())),
            Parts::Mapping { key: Some(MappingKey::Field(text, _)), .. } => Some(Step::Key(text.clone())),
            Parts::Mapping { key: Some(MappingKey::Merge), .. } => Some(Step::Key("<<".to_owned())),
            Parts::Mapping { .. } => None,
        };
        Path(self.open.iter().filter_map(step).collect())
    }

    fn fault(&mut self, fault: Fault, span: Span) {
        let fault = fault.at(self.path(), Some(span));
        self.faults.push(fault);
    }

    fn syntax(&self, error: &ScanError, text: &str) -> Fault {
        let mut start = position(*error.marker());
        let (message, help) = words::syntax(error.info());
        if message == words::TAB {
            start = indenting_tab(text, start).unwrap_or(start);
        }
        let code = if error.info() == "recursion limit exceeded" { LIMIT } else { SYNTAX };
        let mut fault = Fault::new(code, message).at(Path::default(), Some(point(start)));
        fault.help = help.map(str::to_owned);
        let unclosed = ["flow", "node content", "illegal placement"];
        if let Some(collection) = self.open.last().filter(|collection| collection.bracketed)
            && unclosed.iter().any(|words| error.info().contains(words))
        {
            fault.related.push(("opened here".to_owned(), Some(collection.span)));
        }
        fault
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        span: Span,
    ) -> Result<(), Fault> {
        let size = ExpandedSize::scalar(&text);
        if !self.expects_key() {
            let value = self.scalar_value(text, style, tag.as_deref(), span);
            return self.finish(Node { span: Some(span), value }, size, anchor);
        }
        if anchor != 0 || tag.is_some() {
            let value = self.scalar_value(text.clone(), style, tag.as_deref(), span);
            if anchor != 0 {
                self.remember(anchor, &Node { span: Some(span), value }, size)?;
            }
        }
        let merge = style == ScalarStyle::Plain && tag.is_none() && text == "<<";
        self.key(text.into_owned(), merge, size, span);
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Collection { parts: Parts::Mapping { key: None, .. }, .. }))
    }

    fn key(&mut self, text: String, merges: bool, size: ExpandedSize, span: Span) {
        let Some(Collection { parts: Parts::Mapping { key, merge, .. }, size: whole, span: place, .. }) =
            self.open.last_mut()
        else {
            return;
        };
        whole.grow(size);
        place.end = span.end;
        if !merges {
            *key = Some(MappingKey::Field(text, span));
            return;
        }
        let Some(first) = merge.replace(span) else {
            *key = Some(MappingKey::Merge);
            return;
        };
        *key = Some(MappingKey::Refused);
        let mut fault =
            Fault::new(DUPLICATE_KEY, "the key `<<` is here twice").help("merge several: `<<: [*a, *b]`");
        fault.related.push(("first here".to_owned(), Some(first)));
        self.fault(fault, span);
    }

    fn scalar_value(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Value {
        let Some(tag) = tag else { return self.untagged(text, style) };
        match tag::core(tag).map(|name| scalar::tagged(name, &text)) {
            Some(Some(value)) => return value,
            Some(None) => {
                let message = format!("{} is not what {} says", words::quoted(&text), tag::written(tag));
                self.fault(Fault::new(WRONG_VALUE, message), span);
            }
            None => self.unknown_tag(tag, span),
        }
        self.untagged(text, style)
    }

    fn untagged(&self, text: Cow<'_, str>, style: ScalarStyle) -> Value {
        match style {
            ScalarStyle::Plain => scalar::plain(text, self.schema),
            _ => Value::String(text.into_owned()),
        }
    }

    fn collection_tag(&mut self, expected: &str, tag: Option<&Tag>, span: Span) {
        if let Some(tag) = tag
            && !(tag::core(tag) == Some(expected) || tag::is_non_specific(tag))
        {
            self.unknown_tag(tag, span);
        }
    }

    fn unknown_tag(&mut self, tag: &Tag, span: Span) {
        let fault = Fault::new(WRONG_VALUE, format!("the tag {} means nothing here", tag::written(tag)));
        self.fault(fault.help("leave it out"), span);
    }

    fn start(&mut self, parts: Parts, anchor: usize, span: Span) -> Result<(), Fault> {
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep().at(Path::default(), Some(span)));
        }
        let bracketed = span.start != span.end;
        self.open.push(Collection {
            span,
            bracketed,
            anchor,
            size: ExpandedSize { nodes: 1, height: 1 },
            parts,
        });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Fault> {
        let Some(Collection { mut span, anchor, mut size, parts, .. }) = self.open.pop() else {
            return Ok(());
        };
        // A block collection ended with its last element; the parser reports that only at the next token.
        if end.start != end.end {
            span.end = end.end;
        }
        let value = match parts {
            // Trees are kept in memory, and most collections have fewer elements than the initial capacity of
            // a vector.
            Parts::Sequence(mut elements) => {
                elements.shrink_to_fit();
                Value::Sequence(elements)
            }
            Parts::Mapping { mut entries, merged, .. } => {
                let faults = settle(&mut entries, || self.path());
                self.faults.extend(faults);
                merge(&mut entries, merged, &mut size);
                entries.shrink_to_fit();
                Value::Mapping(entries)
            }
        };
        self.finish(Node { span: Some(span), value }, size, anchor)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Fault> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            let inside = self.open.iter().any(|collection| collection.anchor == anchor);
            let message = if inside { "this alias stands inside what it names" } else { words::NO_ANCHOR };
            return Err(Fault::new(SYNTAX, message).at(Path::default(), Some(span)));
        };
        let size = *size;
        if self.open.len() + size.height > MAX_DEPTH {
            return Err(too_deep().at(Path::default(), Some(span)));
        }
        if self.copied.saturating_add(size.nodes) > MAX_COPIED {
            return Err(too_large().at(Path::default(), Some(span)));
        }
        let node = Node { span: Some(span), value: node.value.clone() };
        self.copied += size.nodes;
        self.finish(node, size, 0)
    }

    /// Keeps a copy of an anchored node for aliases. A copy inside another anchored node would be repeated at
    /// each level, so it counts against the budget.
    fn remember(&mut self, anchor: usize, node: &Node, size: ExpandedSize) -> Result<(), Fault> {
        if self.open.iter().any(|collection| collection.anchor != 0) {
            self.copied = self.copied.saturating_add(size.nodes);
            if self.copied > MAX_COPIED {
                return Err(too_large().at(Path::default(), node.span));
            }
        }
        self.anchors.insert(anchor, (node.clone(), size));
        Ok(())
    }

    /// Adds a complete node to the open collection, or to the documents.
    fn finish(&mut self, node: Node, size: ExpandedSize, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.remember(anchor, &node, size)?;
        }
        let Some(collection) = self.open.last_mut() else {
            if node.value != Value::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        if let Some(span) = node.span {
            collection.span.end = span.end;
        }
        match &mut collection.parts {
            Parts::Sequence(elements) => elements.push(node),
            Parts::Mapping { entries, key, .. } => match key.take() {
                Some(MappingKey::Field(key, span)) => {
                    entries.push(Entry { key, key_span: Some(span), value: node })
                }
                // Duplicates are removed, and the remaining entries counted, at the end of the mapping.
                Some(MappingKey::Merge) => {
                    self.take_merge(node);
                    return Ok(());
                }
                Some(MappingKey::Refused) => return Ok(()),
                None => {
                    self.node_as_key(node, size);
                    return Ok(());
                }
            },
        }
        if let Some(collection) = self.open.last_mut() {
            collection.size.grow(size);
        }
        Ok(())
    }

    /// Handles a node in the position of a key: an alias, or a collection, which is a fault.
    fn node_as_key(&mut self, node: Node, size: ExpandedSize) {
        let Some(span) = node.span else { return };
        let text = match node.value {
            Value::String(text) => text,
            Value::Sequence(_) | Value::Mapping(_) => {
                let message = format!("expected a plain key, found {}", node.value.found());
                self.fault(Fault::new(WRONG_TYPE, message), span);
                if let Some(Collection { parts: Parts::Mapping { key, .. }, .. }) = self.open.last_mut() {
                    *key = Some(MappingKey::Refused);
                }
                return;
            }
            _ => node.to_json().to_string(),
        };
        self.key(text, false, size, span);
    }

    fn take_merge(&mut self, node: Node) {
        let nodes = match node.value {
            Value::Sequence(nodes) => nodes,
            _ => vec![node],
        };
        for node in nodes {
            match (node.value, self.open.last_mut()) {
                (Value::Mapping(more), Some(Collection { parts: Parts::Mapping { merged, .. }, .. })) => {
                    merged.extend(more);
                }
                (value, _) => {
                    let message = format!("expected a mapping to merge, found {}", value.found());
                    let fault = Fault::new(WRONG_TYPE, message).at(self.path().key("<<"), node.span);
                    self.faults.push(fault);
                }
            }
        }
    }
}

/// Adds merged entries. Own keys take precedence over merged ones, and earlier merged ones over later ones.
fn merge(entries: &mut Vec<Entry>, merged: Vec<Entry>, size: &mut ExpandedSize) {
    if merged.is_empty() {
        return;
    }
    let own = entries.len();
    entries.extend(merged);
    let seconds = duplicates(entries).into_iter().map(|(_, second)| second);
    remove(entries, seconds);
    entries[own..].iter().for_each(|entry| size.grow_by(entry));
}

fn too_deep() -> Fault {
    Fault::new(LIMIT, format!("this nests deeper than {MAX_DEPTH} levels"))
}

fn too_large() -> Fault {
    Fault::new(LIMIT, "the aliases of this file make it too large")
}
