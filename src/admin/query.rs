//! The query of a request: each parameter once, percent-decoded, and none that nobody asked for.

use http::StatusCode;

use super::Problem;

/// What is left of a query.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `name=value&name=value`. A `+` is a plus: only `%20` is a space (RFC 3986).
    ///
    /// # Errors
    /// 400 if a parameter is there twice, or is no UTF-8.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let both = decoded(name).zip(decoded(value));
            let (name, value) = both.ok_or_else(|| bad("the query is not percent-encoded UTF-8"))?;
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(bad(&format!("`{name}` is in the query more than once")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Looks at a parameter and leaves it there.
    pub(super) fn peek(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Takes a parameter out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes a parameter out and reads it; `expected` says to people what it must be.
    ///
    /// # Errors
    /// 400 if `read` makes nothing of it.
    pub(super) fn take_as<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let read = |text: String| read(&text).ok_or_else(|| bad(&format!("`{name}` must be {expected}")));
        self.take(name).map(read).transpose()
    }

    /// Nothing may be left: a misspelt parameter would do something else than was meant.
    ///
    /// # Errors
    /// 400, with one that is.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(bad(&format!("`{name}` means nothing in this query"))),
            None => Ok(()),
        }
    }
}

fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// Percent-decodes it; `None` if it is no percent-encoded UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken_out() {
        let mut query = Query::parse(Some("key=a%2Fb%20%c3%bc+&limit=7&&empty")).unwrap();
        assert_eq!(query.take("key").as_deref(), Some("a/b ü+"));
        assert_eq!(query.take("key"), None);
        assert_eq!(query.take("empty").as_deref(), Some(""));
        assert_eq!(query.take_as("limit", "a number", |text| text.parse().ok()).unwrap(), Some(7_u64));
        assert!(query.end().is_ok());
        assert!(Query::parse(None).unwrap().end().is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for query in ["a=%", "a=%2", "a=%zz", "a=%ff", "%ff=a", "a=1&a=2", "a&%61"] {
            assert!(Query::parse(Some(query)).is_err(), "{query}");
        }
        let mut query = Query::parse(Some("limit=x&lmit=3")).unwrap();
        let refused = query.take_as("limit", "a number", |text| text.parse::<u64>().ok()).unwrap_err();
        assert_eq!(refused.detail(), "`limit` must be a number");
        assert_eq!(query.end().unwrap_err().detail(), "`lmit` means nothing in this query");
    }
}
