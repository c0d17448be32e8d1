//! The only file that knows the YAML libraries. saphyr-parser says where everything stands; serde_yaml reads
//! the same text and says what every scalar is. What the two read differently is refused.

use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span as SaphyrSpan, StrInput};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    codes,
    report::{Finding, Report, error},
    span::Span,
    tree::{Content, Entry, Kind, Node, Scalar},
    value::shorten,
};

/// Deeper nesting than this is no configuration; serde_yaml has the same bound.
const MAX_DEPTH: usize = 128;
/// Keys, scalars, lists and mappings of one file. Ten thousand endpoints need a tenth of it.
const MAX_NODES: usize = 500_000;

/// Reads `text` into a tree. Duplicate keys are reported and stay in the tree, the first one first.
///
/// # Errors
/// `None`, with the reason in `report`, when there is no tree to go on with.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Node> {
    let mut builder = Builder::new(text);
    let mut root = match builder.document(report) {
        Ok(root) => root,
        Err(finding) => return report.add(*finding),
    };
    let deserializer = serde_yaml::Deserializer::from_str(text);
    if let Err(problem) = Resolve(&mut root).deserialize(deserializer) {
        let at = problem.location().map_or(0, |location| location.index().min(text.len()));
        let finding =
            error(codes::SYNTAX, Span::new(at, at + 1), format!("cannot be read with certainty: {problem}"));
        return report.add(finding.help("quote the values around this place"));
    }
    Some(root)
}

/// What YAML takes `text` for when it is written without quotes.
pub(super) fn resolve_plain(text: &str) -> Kind {
    // Anything else could be YAML syntax, which must not come into being by substitution.
    let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
    if text.is_empty() || !text.chars().all(simple) {
        return Kind::Text;
    }
    let mut node = Node { span: Span::default(), content: scalar(text.to_owned(), true) };
    match Resolve(&mut node).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(()) => match node.content {
            Content::Scalar(scalar) => scalar.kind,
            Content::List(_) | Content::Map(_) => Kind::Text,
        },
        Err(_) => Kind::Text,
    }
}

fn scalar(text: String, plain: bool) -> Content {
    Content::Scalar(Scalar { text, kind: Kind::Text, plain, secret: false })
}

/// Builds the tree from saphyr's events.
struct Builder<'t> {
    text: &'t str,
    events: Parser<'t, StrInput<'t>>,
    /// Byte offset of every character; empty for ASCII, where they are the same.
    offsets: Vec<usize>,
    nodes: usize,
}

type Built<T> = Result<T, Box<Finding>>;

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        let offsets =
            if text.is_ascii() { Vec::new() } else { text.char_indices().map(|(at, _)| at).collect() };
        Self { text, events: Parser::new_from_str(text), offsets, nodes: 0 }
    }

    fn document(&mut self, report: &mut Report) -> Built<Node> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => {
                    return Err(Box::new(
                        error(codes::MISSING_KEY, Span::default(), "the file is empty")
                            .help("config/minimal.yaml is the smallest file that does something"),
                    ));
                }
                (event, span) => {
                    let root = self.node(event, span, 0, report)?;
                    self.end_of_document()?;
                    return Ok(root);
                }
            }
        }
    }

    fn end_of_document(&mut self) -> Built<()> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    return Err(unsupported(span, "a second document in the same file"));
                }
                _ => {}
            }
        }
    }

    /// The next event with its place in bytes.
    fn next(&mut self) -> Built<(Event<'t>, Span)> {
        match self.events.next_event() {
            Some(Ok((event, span))) => {
                let span = self.span(&span);
                Ok((event, span))
            }
            Some(Err(problem)) => Err(self.syntax_error(*problem.marker(), problem.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn syntax_error(&self, marker: Marker, info: &str) -> Box<Finding> {
        let at = self.offset(marker.index());
        let next = self.text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |c| at + c.len_utf8());
        let finding = error(codes::SYNTAX, Span::new(at, next), format!("not valid YAML: {info}"));
        let line_start = self.text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let line = self.text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        Box::new(if line.contains("${") {
            finding.help("inside of `{ }` and `[ ]`, write \"${env:NAME}\" with quotes")
        } else {
            finding
        })
    }

    fn span(&self, span: &SaphyrSpan) -> Span {
        Span::new(self.offset(span.start.index()), self.offset(span.end.index()))
    }

    /// The scalar alone: saphyr counts what follows a quoted one, comments included, and the end of a block.
    fn trimmed(&self, span: Span) -> Span {
        let text = self.text.get(span.start..span.end).unwrap_or_default();
        let length = match text.bytes().next() {
            Some(quote @ (b'"' | b'\'')) => quoted_length(text, quote),
            _ => text.trim_end().len(),
        };
        Span::new(span.start, span.start + length)
    }

    fn offset(&self, character: usize) -> usize {
        let known =
            if self.offsets.is_empty() { Some(character) } else { self.offsets.get(character).copied() };
        known.unwrap_or(self.text.len()).min(self.text.len())
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize, report: &mut Report) -> Built<Node> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            let message = format!("more than {MAX_DEPTH} levels or {MAX_NODES} values");
            return Err(Box::new(error(codes::UNREADABLE, span, message)));
        }
        match event {
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                Err(unsupported(span, "an anchor"))
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => Err(unsupported(span, "a tag")),
            Event::Alias(_) => Err(unsupported(span, "an alias")),
            Event::Scalar(text, style, _, _) => {
                let content = scalar(text.into_owned(), style == ScalarStyle::Plain);
                Ok(Node { span: self.trimmed(span), content })
            }
            Event::SequenceStart(..) => self.list(span, depth, report),
            Event::MappingStart(..) => self.map(span, depth, report),
            _ => Err(Box::new(error(codes::SYNTAX, span, "not valid YAML"))),
        }
    }

    fn list(&mut self, start: Span, depth: usize, report: &mut Report) -> Built<Node> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                let first = items.first().map(|item: &Node| item.span);
                return Ok(Node { span: collection(start, span, first), content: Content::List(items) });
            }
            items.push(self.node(event, span, depth + 1, report)?);
        }
    }

    fn map(&mut self, start: Span, depth: usize, report: &mut Report) -> Built<Node> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        loop {
            let (event, key_span) = self.next()?;
            let key = match event {
                Event::MappingEnd => {
                    let first = entries.first().map(|entry| entry.key_span);
                    return Ok(Node {
                        span: collection(start, key_span, first),
                        content: Content::Map(entries),
                    });
                }
                Event::Scalar(text, _, 0, None) => text.into_owned(),
                _ => return Err(unsupported(key_span, "a key that is not plain text")),
            };
            if key == "<<" {
                return Err(unsupported(key_span, "a merge key"));
            }
            if let Some(first) = seen.insert(key.clone(), key_span) {
                report.add::<()>(
                    error(codes::DUPLICATE_KEY, key_span, format!("key `{}` is given twice", shorten(&key)))
                        .label("again here")
                        .also(first, "first here"),
                );
            }
            let (event, span) = self.next()?;
            let mut value = self.node(event, span, depth + 1, report)?;
            if value.span.is_empty() {
                value.span = key_span;
            }
            entries.push(Entry { key, key_span, value });
        }
    }
}

/// Length of the quoted scalar that `text` begins with, quotes included.
fn quoted_length(text: &str, quote: u8) -> usize {
    let mut bytes = text.bytes().enumerate().skip(1).peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if quote == b'"' => {
                bytes.next();
            }
            b'\'' if quote == byte && bytes.peek().is_some_and(|(_, next)| *next == byte) => {
                bytes.next();
            }
            _ if byte == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Flow collections have brackets to point at; block collections are pointed at by their first element.
fn collection(start: Span, end: Span, first: Option<Span>) -> Span {
    if start.is_empty() { first.unwrap_or(start) } else { Span::new(start.start, end.end) }
}

fn unsupported(span: Span, what: &str) -> Box<Finding> {
    Box::new(
        error(codes::UNSUPPORTED_YAML, span, format!("{what} is not supported")).help("write the value out"),
    )
}

/// Walks along the tree while serde_yaml reads the text, and notes what each scalar is.
struct Resolve<'n>(&'n mut Node);

impl<'de> DeserializeSeed<'de> for Resolve<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Resolve<'_> {
    fn scalar<E: Error>(self, kind: Kind) -> Result<(), E> {
        match &mut self.0.content {
            Content::Scalar(scalar) => {
                scalar.kind = kind;
                Ok(())
            }
            Content::List(_) | Content::Map(_) => Err(differs()),
        }
    }
}

fn differs<E: Error>() -> E {
    E::custom("YAML readers disagree on its structure")
}

impl<'de> Visitor<'de> for Resolve<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Kind::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Kind::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Kind::Number(value as f64))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<(), E> {
        self.scalar(Kind::Number(value as f64))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<(), E> {
        self.scalar(Kind::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Kind::Number(value))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(Kind::Null)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match &self.0.content {
            Content::Scalar(scalar) if scalar.text == value => self.scalar(Kind::Text),
            _ => Err(differs()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Content::List(items) = &mut self.0.content else {
            return Err(differs());
        };
        for item in items {
            seq.next_element_seed(Resolve(item))?.ok_or_else(differs)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Content::Map(entries) = &mut self.0.content else {
            return Err(differs());
        };
        for entry in entries {
            map.next_key::<IgnoredAny>()?.ok_or_else(differs)?;
            map.next_value_seed(Resolve(&mut entry.value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_quoted_scalar_is_its_closing_quote() {
        assert_eq!(quoted_length(r#""a\"b" # "c""#, b'"'), r#""a\"b""#.len());
        assert_eq!(quoted_length("'it''s' # 'x'", b'\''), "'it''s'".len());
    }

    #[test]
    fn substituted_text_is_a_number_or_a_truth_value_only_if_yaml_says_so() {
        assert_eq!(resolve_plain("12"), Kind::Unsigned(12));
        assert_eq!(resolve_plain("true"), Kind::Bool(true));
        assert_eq!(resolve_plain("-1"), Kind::Number(-1.0));
        for text in ["", "on", "{a: 1}", "[1]", "- 1", "1 # x", "-", "--- 1"] {
            assert_eq!(resolve_plain(text), Kind::Text, "{text}");
        }
    }
}
