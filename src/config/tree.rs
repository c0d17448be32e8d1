//! A YAML document as a tree that knows where each part stands in the text.

use super::span::Span;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The value's text; its first key or item for a block mapping or list; its key if there is no text.
    pub(super) span: Span,
    pub(super) content: Content,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A value that is not made of others.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    /// As written, without quotes; after substitution.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Written without quotes.
    pub(super) plain: bool,
    /// Came, at least in part, from an environment variable or a file: never shown to anyone.
    pub(super) secret: bool,
}

/// What YAML takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Negative or fractional, or too large.
    Number(f64),
    Text,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Node,
}

/// What a finding is about, where a block mapping and its first key are at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The key or value.
    Value,
    /// The mapping as a whole, because something is missing in it.
    Mapping,
}

impl Node {
    /// The same, standing `by` bytes further on.
    pub(super) fn moved(&self, by: usize) -> Self {
        let moved = |span: Span| Span::new(span.start + by, span.end + by);
        let content = match &self.content {
            Content::Scalar(scalar) => Content::Scalar(scalar.clone()),
            Content::List(items) => Content::List(items.iter().map(|item| item.moved(by)).collect()),
            Content::Map(entries) => {
                let entry = |entry: &Entry| Entry {
                    key: entry.key.clone(),
                    key_span: moved(entry.key_span),
                    value: entry.value.moved(by),
                };
                Content::Map(entries.iter().map(entry).collect())
            }
        };
        Self { span: moved(self.span), content }
    }

    /// Whether the value must not be shown.
    pub(super) fn secret(&self) -> bool {
        matches!(&self.content, Content::Scalar(Scalar { secret: true, .. }))
    }

    /// What was found, for "expected …, found …".
    pub(super) fn found(&self) -> &'static str {
        match &self.content {
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
            Content::Scalar(scalar) => match scalar.kind {
                Kind::Null => "nothing",
                Kind::Bool(_) => "a truth value",
                Kind::Unsigned(_) | Kind::Number(_) => "a number",
                Kind::Text => "text",
            },
        }
    }

    /// The path of the deepest key or item that `offset` lies in or after, as `routes[0].timeout`. With
    /// `Aim::Mapping` a key that begins right there stands for the mapping that it is the first one of.
    pub(super) fn path_at(&self, offset: usize, aim: Aim) -> String {
        let mut path = String::new();
        let mut node = self;
        loop {
            node = match &node.content {
                Content::Scalar(_) => return path,
                Content::Map(entries) => {
                    let after = entries.partition_point(|entry| match aim {
                        Aim::Value => entry.key_span.start <= offset,
                        Aim::Mapping => entry.key_span.start < offset,
                    });
                    let Some(entry) = after.checked_sub(1).and_then(|index| entries.get(index)) else {
                        return path;
                    };
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&entry.key);
                    if offset < entry.key_span.end {
                        return path;
                    }
                    &entry.value
                }
                Content::List(items) => {
                    let after = items.partition_point(|item| item.span.start <= offset);
                    let Some((index, item)) = after.checked_sub(1).and_then(|at| Some((at, items.get(at)?)))
                    else {
                        return path;
                    };
                    path.push_str(&format!("[{index}]"));
                    item
                }
            };
        }
    }
}
