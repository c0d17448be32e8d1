//! Reads JSON that somebody else wrote: bounded in depth and number before a parser allocates anything for it, and
//! with each name once, since readers do not agree on which of two counts.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// How large a text may become in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Objects and lists within each other. serde_json itself gives up at 128.
    pub(super) depth: usize,
    /// Values in all.
    pub(super) values: usize,
}

/// The value of `text`.
///
/// # Errors
/// A fixed word on what is wrong: nothing of the text is repeated, since it may end up in a log.
pub(super) fn read(text: &[u8], bounds: Bounds) -> Result<Value, &'static str> {
    measure(text, bounds)?;
    serde_json::from_slice::<Unique>(text)
        .map(|unique| unique.0)
        .map_err(|error| if error.is_data() { "a name stands twice in one object" } else { "it is not JSON" })
}

/// Counts brackets and commas outside of strings. Whether they make sense is for the parser to say: it will not build
/// more than was counted.
fn measure(text: &[u8], bounds: Bounds) -> Result<(), &'static str> {
    let (mut depth, mut values) = (0_usize, 1_usize);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                // To the end of the string; what stands behind a backslash ends none.
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                depth += 1;
                values += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > bounds.depth {
            return Err("it is nested too deeply");
        }
        if values > bounds.values {
            return Err("it has too many values");
        }
    }
    Ok(())
}

/// A value in whose objects no name stands twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, Unique>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 3, values: 8 };

    #[test]
    fn json_within_the_bounds_is_read() {
        let text = br#"{"a": [1, -2, 0.5, true, null], "b": "]}\"[{,"}"#;
        assert_eq!(read(text, BOUNDS), Ok(json!({ "a": [1, -2, 0.5, true, null], "b": "]}\"[{," })));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_parsed() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(read(deep.as_bytes(), BOUNDS), Err("it is nested too deeply"));
        let wide = format!("[{}0]", "0,".repeat(1_000_000));
        assert_eq!(read(wide.as_bytes(), BOUNDS), Err("it has too many values"));
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":1}}"#, r#"{"a":1,"\u0061":2}"#] {
            assert_eq!(read(text.as_bytes(), BOUNDS), Err("a name stands twice in one object"), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{}x", "{'a':1}", "\"\\", "[1,]", "nul", "\u{feff}{}"] {
            assert_eq!(read(text.as_bytes(), BOUNDS), Err("it is not JSON"), "{text:?}");
        }
    }
}
