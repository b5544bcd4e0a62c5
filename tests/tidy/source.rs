//! Sources of the crate, parsed just far enough to check rules: code without comments and text, items, paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Source file.
pub(crate) struct Source {
    /// Path under `src/` without the extension, such as `xds/stream/sotw`: its module path too.
    pub(crate) module: String,
    pub(crate) text: String,
    /// Text with blanks in place of comments, strings and characters; its lines are those of the text.
    pub(crate) code: String,
}

/// Function, or block of an `impl`, with its lines counted from 1.
pub(crate) struct Block {
    /// Name of the function, or of the type that the block implements.
    pub(crate) name: String,
    pub(crate) first_line: usize,
    pub(crate) lines: usize,
    /// Number of functions directly in the block.
    pub(crate) functions: usize,
}

impl Source {
    pub(crate) fn new(module: &str, text: &str) -> Self {
        Self { module: module.to_owned(), text: text.to_owned(), code: blanked(text) }
    }

    /// Returns true for a file of tests alone.
    pub(crate) fn is_test(&self) -> bool {
        ["tests", "properties"].iter().any(|name| self.module.split('/').any(|segment| segment == *name))
    }

    /// Returns the code before the tests at the end of the file.
    pub(crate) fn code_without_tests(&self) -> &str {
        let tests = self.code.find("\n#[cfg(test)]\nmod tests");
        &self.code[..tests.unwrap_or(self.code.len())]
    }

    /// Returns the type names that the file defines, each with its line. Associated types are none.
    pub(crate) fn types(&self) -> Vec<(usize, &str)> {
        let mut types = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            let Some((keyword, rest)) = without_visibility(line.trim_start()).split_once(' ') else {
                continue;
            };
            let is_type = match keyword {
                "type" => !line.starts_with(' '),
                keyword => ["struct", "enum", "trait", "union"].contains(&keyword),
            };
            let name = &rest[..identifier_length(rest)];
            if is_type && !name.is_empty() {
                types.push((index + 1, name));
            }
        }
        types
    }

    /// Returns the functions with a body, without those of tests.
    pub(crate) fn functions(&self) -> Vec<Block> {
        let code = self.code_without_tests();
        let starts = line_starts(code).filter(|(_, line)| function_name(line).is_some());
        starts
            .filter_map(|(start, line)| {
                let (open, close) = body(code, start)?;
                Some(block(code, function_name(line)?, start, open, close))
            })
            .collect()
    }

    /// Returns the blocks of `impl`, by the name of the type, without those of tests.
    pub(crate) fn impls(&self) -> Vec<Block> {
        let code = self.code_without_tests();
        let starts = line_starts(code).filter(|(_, line)| {
            let item = line.trim_start();
            item.starts_with("impl ") || item.starts_with("impl<")
        });
        starts
            .filter_map(|(start, _)| {
                let (open, close) = body(code, start)?;
                Some(block(code, implemented(&code[start..open])?, start, open, close))
            })
            .collect()
    }

    /// Returns the paths into the crate, each with its line: `crate::…`, and `super::…` resolved.
    pub(crate) fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let code = self.code_without_tests();
        let mut paths = Vec::new();
        for word in ["crate::", "super::"] {
            for (at, _) in code.match_indices(word) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
                    continue;
                }
                let line = code[..at].matches('\n').count() + 1;
                let mut module: Vec<String> = match word {
                    "crate::" => Vec::new(),
                    _ => self.module.split('/').map(str::to_owned).collect(),
                };
                let mut rest = &code[at..];
                rest = rest.strip_prefix("crate::").unwrap_or(rest);
                while let Some(shorter) = rest.strip_prefix("super::") {
                    module.pop();
                    rest = shorter;
                }
                paths.extend(expanded(module, rest).into_iter().map(|path| (line, path)));
            }
        }
        paths
    }
}

/// Returns every source file of the crate, read once.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(read_sources)
}

fn read_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 100, "the sources were not found");
    let read = |path: PathBuf| {
        let module = path.strip_prefix(&root).unwrap().with_extension("");
        Source::new(module.to_str().unwrap(), &fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// Collects the source files below a directory.
fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Returns the paths of a `use` tree after its first module: one for each name in braces.
fn expanded(module: Vec<String>, mut rest: &str) -> Vec<Vec<String>> {
    let mut path = module;
    loop {
        let length = identifier_length(rest);
        if length > 0 {
            path.push(rest[..length].to_owned());
            rest = &rest[length..];
        }
        match rest.strip_prefix("::") {
            Some(deeper) if length > 0 || !path.is_empty() => rest = deeper,
            _ => break,
        }
        if length == 0 {
            break;
        }
    }
    let Some(list) = rest.strip_prefix('{') else { return vec![path] };
    let list = &list[..list.find(['}', ';']).unwrap_or(list.len())];
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.flat_map(|name| expanded(path.clone(), name)).collect()
}

fn identifier_length(text: &str) -> usize {
    text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len())
}

fn without_visibility(item: &str) -> &str {
    let Some(rest) = item.strip_prefix("pub") else { return item };
    match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or(rest, |(_, rest)| rest).trim_start(),
        None => rest.trim_start(),
    }
}

/// Returns the name if a function begins on the line.
fn function_name(line: &str) -> Option<&str> {
    let mut item = without_visibility(line.trim_start());
    for word in ["const ", "async ", "unsafe "] {
        item = item.strip_prefix(word).unwrap_or(item);
    }
    let rest = item.strip_prefix("fn ")?;
    Some(&rest[..identifier_length(rest)])
}

fn line_starts(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split_inclusive('\n').scan(0, |start, line| {
        let own = *start;
        *start += line.len();
        Some((own, line))
    })
}

/// Returns the offsets of the braces of the item that begins at `start`; none for an item without a body.
fn body(code: &str, start: usize) -> Option<(usize, usize)> {
    let mut nested = 0_usize;
    let mut open = None;
    for (offset, letter) in code[start..].char_indices() {
        match letter {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            ';' if nested == 0 && open.is_none() => return None,
            '{' => {
                if nested == 0 && open.is_none() {
                    open = Some(offset);
                }
                nested += 1;
            }
            '}' => {
                nested -= 1;
                if nested == 0 {
                    return Some((start + open?, start + offset));
                }
            }
            _ => {}
        }
    }
    None
}

fn block(code: &str, name: &str, start: usize, open: usize, close: usize) -> Block {
    let mut depth = 0_usize;
    let mut functions = 0;
    for line in code[open..close].lines() {
        functions += usize::from(depth == 1 && function_name(line).is_some());
        depth += line.matches('{').count();
        depth -= line.matches('}').count();
    }
    let first_line = code[..start].matches('\n').count() + 1;
    let lines = code[start..close].matches('\n').count() + 1;
    Block { name: name.to_owned(), first_line, lines, functions }
}

/// Returns the name of the type in the head of an `impl`, such as `impl<T> From<T> for crate::a::Type<T>`.
fn implemented(head: &str) -> Option<&str> {
    let head = head.trim_start().strip_prefix("impl")?;
    let subject = match head.rfind(" for ") {
        Some(at) => &head[at + " for ".len()..],
        None => after_generics(head),
    };
    let subject = subject.trim_start().trim_start_matches('&').trim_start_matches("mut ");
    let path = &subject[..subject.find(['<', ' ', '\n']).unwrap_or(subject.len())];
    path.rsplit("::").next()
}

/// Returns the text after `<…>`, in which angles may nest; all of it without.
fn after_generics(text: &str) -> &str {
    let text = text.trim_start();
    if !text.starts_with('<') {
        return text;
    }
    let mut depth = 0_i32;
    for (at, letter) in text.char_indices() {
        depth += match letter {
            '<' => 1,
            '>' if !text[..at].ends_with('-') => -1,
            _ => 0,
        };
        if depth == 0 {
            return &text[at + 1..];
        }
    }
    text
}

/// Returns a text with blanks in place of comments, strings and characters. Line breaks stay.
pub(crate) fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = opaque_length(rest, code.chars().next_back());
        let (taken, left) = rest.split_at(length.max(letter.len_utf8()));
        if length == 0 {
            code.push(letter);
        } else {
            code.extend(taken.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
        }
        rest = left;
    }
    code
}

/// Returns the length of the comment or literal that a text begins with; 0 if it begins with code.
fn opaque_length(text: &str, before: Option<char>) -> usize {
    let end = |found: Option<usize>, length: usize| found.map_or(text.len(), |at| at + length);
    let is_in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if text.starts_with("//") {
        return end(text.find('\n'), 0);
    }
    if text.starts_with("/*") {
        return end(text.find("*/"), 2);
    }
    if let Some(content) = text.strip_prefix('"') {
        return 1 + quoted_length(content, '"');
    }
    if text.starts_with('r') && !is_in_word {
        let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
        if text[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let content = 2 + hashes;
            return end(text[content..].find(&close).map(|at| content + at), close.len());
        }
    }
    if let Some(content) = text.strip_prefix('\'') {
        let mut letters = content.chars();
        let is_literal = match letters.next() {
            Some('\\') => true,
            _ => letters.next() == Some('\''), // Otherwise a lifetime.
        };
        return if is_literal { 1 + quoted_length(content, '\'') } else { 0 };
    }
    0
}

/// Returns the length of the content and the closing quote.
fn quoted_length(content: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in content.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at + 1,
            _ => {}
        }
    }
    content.len()
}
