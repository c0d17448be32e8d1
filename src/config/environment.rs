//! `${env:NAME}` and `${file:/path}` in values, and the only place where configuration reads either.

use std::{fs::File, io, io::Read, path::Path};

use super::{
    report::Report,
    tree::{Content, Kind, Node, Scalar},
};

/// A substituted file is a token or a password, not a document.
const MAX_FILE: u64 = 64 * 1024;

/// Where substituted values come from.
pub trait Environment {
    /// The environment variable `name`, if it is set and UTF-8.
    fn variable(&self, name: &str) -> Option<String>;
    /// The content of a file.
    ///
    /// # Errors
    /// Whatever kept it from being read as UTF-8 text of at most 64 KiB.
    fn file(&self, path: &Path) -> io::Result<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        // A pipe or a device could keep the reload waiting for ever.
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut content = String::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64 KiB"));
        }
        Ok(content)
    }
}

/// Replaces every substitution in the values of `root`; keys are left alone. Returns JSON pointers to
/// the values that contain one, as in `/routes/0/headers/request/set/x-token`.
pub(super) fn substitute(root: &mut Node, environment: &dyn Environment, report: &mut Report) -> Vec<String> {
    let mut paths = Vec::new();
    walk(root, "", environment, report, &mut paths);
    paths
}

/// Reads `$${` in the values of `root` as [`substitute`] does, and reports every substitution: what others have written
/// may not ask for what is on this machine.
pub(super) fn refuse(root: &mut Node, report: &mut Report) {
    let span = root.span;
    match &mut root.content {
        Content::Scalar(scalar) if scalar.text.contains("${") => match expand(&scalar.text, &Nothing) {
            Ok((text, false)) => *scalar = Scalar { text, kind: Kind::Text, plain: false, secret: false },
            Ok((_, true)) | Err(_) => {
                let message = "what is shared has no substitutions".to_owned();
                report.add_unsubstituted(span, message);
            }
        },
        Content::Scalar(_) => {}
        Content::List(items) => items.iter_mut().for_each(|item| refuse(item, report)),
        Content::Map(entries) => entries.iter_mut().for_each(|entry| refuse(&mut entry.value, report)),
    }
}

/// An environment that has nothing.
struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn walk(
    node: &mut Node,
    path: &str,
    environment: &dyn Environment,
    report: &mut Report,
    paths: &mut Vec<String>,
) {
    let span = node.span;
    match &mut node.content {
        Content::Scalar(scalar) if scalar.text.contains("${") => match expand(&scalar.text, environment) {
            Ok((text, secret)) => {
                if secret {
                    paths.push(path.to_owned());
                }
                *scalar = Scalar { text, kind: Kind::Text, plain: false, secret };
            }
            Err(message) => report.add_unsubstituted(span, message),
        },
        Content::Scalar(_) => {}
        Content::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{path}/{index}"), environment, report, paths);
            }
        }
        Content::Map(entries) => {
            for entry in entries {
                let path = format!("{path}/{}", entry.key.replace('~', "~0").replace('/', "~1"));
                walk(&mut entry.value, &path, environment, report, paths);
            }
        }
    }
}

/// The text with everything put in, and whether anything was.
fn expand(text: &str, environment: &dyn Environment) -> Result<(String, bool), String> {
    let mut result = String::with_capacity(text.len());
    let mut substituted = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let before = &rest[..at];
        if let Some(literal) = before.strip_suffix('$') {
            result.push_str(literal);
            result.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(before);
        let Some((inner, after)) = rest[at + 2..].split_once('}') else {
            return Err("`${` without `}`".to_owned());
        };
        result.push_str(&look_up(inner, environment)?);
        substituted = true;
        rest = after;
    }
    result.push_str(rest);
    Ok((result, substituted))
}

fn look_up(inner: &str, environment: &dyn Environment) -> Result<String, String> {
    match inner.split_once(':') {
        Some(("env", name)) if !name.is_empty() => {
            environment.variable(name).ok_or_else(|| format!("the environment variable `{name}` is not set"))
        }
        Some(("file", path)) if !path.is_empty() => {
            let content = environment
                .file(Path::new(path))
                .map_err(|problem| format!("cannot read the file `{path}`: {problem}"))?;
            let line = content.strip_suffix('\n').unwrap_or(&content);
            Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
        }
        _ => Err(format!("`${{{inner}}}` is neither `${{env:NAME}}` nor `${{file:/path}}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "PORT").then(|| "8080".to_owned())
        }

        fn file(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("/token") => Ok("s3cret\n\n".to_owned()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[test]
    fn variables_and_files_are_put_in_and_one_line_break_is_cut() {
        assert_eq!(expand("127.0.0.1:${env:PORT}", &Fixed), Ok(("127.0.0.1:8080".into(), true)));
        assert_eq!(expand("Bearer ${file:/token}!", &Fixed), Ok(("Bearer s3cret\n!".into(), true)));
    }

    #[test]
    fn a_doubled_dollar_is_a_literal_one() {
        assert_eq!(expand("$${env:PORT} costs $5", &Fixed), Ok(("${env:PORT} costs $5".into(), false)));
    }

    #[test]
    fn what_cannot_be_looked_up_is_an_error() {
        for text in ["${env:NONE}", "${file:/none}", "${PORT}", "${env:}", "${env:PORT"] {
            assert!(expand(text, &Fixed).is_err(), "{text}");
        }
    }
}
