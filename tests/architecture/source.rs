//! Reads Rust source at the level of a careful grep: comments, string contents and test code are blanked out,
//! line numbers stay. Knows nothing of the rules; they are in `rules.rs`.

use std::{fs, io, path::Path};

/// One source file of the repository.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Path from the repository's root, with `/`.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) raw: String,
    /// The same lines without comments, string contents and `#[cfg(test)]` items; empty in test files.
    pub(crate) code: String,
    /// Lines inside `#[cfg(test)]` items.
    pub(crate) test_lines: usize,
    /// The whole file is test code: `tests.rs`, a child of it, or a module declared under `#[cfg(test)]`.
    pub(crate) is_test: bool,
    /// Names of the modules that the file declares as `#[cfg(test)] mod name;`.
    test_modules: Vec<String>,
}

/// A path in the code, as `crate::policy::route` or `std::fs::read`; grouped imports are taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
}

impl Reference {
    /// Whether the path begins with these segments.
    pub(crate) fn starts_with(&self, segments: &[&str]) -> bool {
        self.path.len() >= segments.len() && self.path.iter().zip(segments).all(|(have, want)| have == want)
    }

    /// Whether any segment is this one.
    pub(crate) fn mentions(&self, segment: &str) -> bool {
        self.path.iter().any(|have| have == segment)
    }

    /// Whether two neighbouring segments are these, as in `time::Instant::now`.
    pub(crate) fn calls(&self, kind: &str, function: &str) -> bool {
        self.path.windows(2).any(|pair| pair[0] == kind && pair[1] == function)
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) line: usize,
    pub(crate) name: String,
    /// Lines between its braces that hold code.
    pub(crate) body_lines: usize,
}

/// Every `.rs` file below these folders of `root`, sorted by path. A folder that does not exist has none.
pub(crate) fn load(root: &Path, folders: &[&str]) -> io::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for folder in folders {
        let path = root.join(folder);
        if path.is_dir() {
            load_folder(&path, folder, &mut files)?;
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    mark_test_modules(&mut files);
    Ok(files)
}

fn load_folder(folder: &Path, name: &str, files: &mut Vec<SourceFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            // The fuzz crate builds in its own folder; what is generated there is not ours.
            if entry.file_name() == "target" {
                continue;
            }
            load_folder(&entry.path(), &path, files)?;
        } else if path.ends_with(".rs") {
            files.push(SourceFile::parse(&path, &fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

/// Files that a parent declares under `#[cfg(test)]` do not look like tests from inside.
fn mark_test_modules(files: &mut [SourceFile]) {
    let declared: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let folder =
                file.path.strip_suffix("/mod.rs").or(file.path.strip_suffix(".rs")).unwrap_or_default();
            file.test_modules.iter().map(move |name| format!("{folder}/{name}"))
        })
        .collect();
    for file in files {
        let is_declared = |stem: &String| {
            file.path.strip_prefix(stem.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if declared.iter().any(is_declared) {
            file.is_test = true;
            file.code.clear();
        }
    }
}

impl SourceFile {
    /// Reads one file.
    pub(crate) fn parse(path: &str, raw: &str) -> Self {
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        let (code, test_lines, test_modules) = blank_test_items(&blank_text(raw));
        let code = if is_test { String::new() } else { code };
        Self { path: path.to_owned(), raw: raw.to_owned(), code, test_lines, is_test, test_modules }
    }

    /// The module below `src/` that the file belongs to: `proxy`; `main` and `lib` for the crate roots.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Lines that are not test code.
    pub(crate) fn code_lines(&self) -> usize {
        if self.is_test { 0 } else { self.raw.lines().count().saturating_sub(self.test_lines) }
    }

    /// All paths in the code that is not test code.
    pub(crate) fn references(&self) -> Vec<Reference> {
        references(&self.code)
    }

    /// The module of ours that a path leads to, if it leads to one: through `crate`, or through as many
    /// `super` as the file is deep.
    pub(crate) fn target<'a>(&self, reference: &'a Reference) -> Option<&'a str> {
        let path = &reference.path;
        match path[0].as_str() {
            "crate" => path.get(1).map(String::as_str),
            "outrigger" if self.path == "src/main.rs" => path.get(1).map(String::as_str),
            "super" => {
                let climbed = path.iter().take_while(|segment| *segment == "super").count();
                if climbed >= self.depth() { path.get(climbed).map(String::as_str) } else { None }
            }
            _ => None,
        }
    }

    /// How many `super` lead to the crate root: 1 in `src/proxy/mod.rs`, 2 in `src/proxy/pool.rs`.
    fn depth(&self) -> usize {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').filter(|part| *part != "mod.rs").count()
    }

    /// The functions in the code that is not test code.
    pub(crate) fn functions(&self) -> Vec<Function> {
        functions(&self.code)
    }

    /// Lines at which a keyword or name stands in the code that is not test code.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<usize> {
        tokens(&self.code)
            .iter()
            .filter(|(_, token)| *token == Token::Word(word))
            .map(|(line, _)| *line)
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    PathSeparator,
    Mark(u8),
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let (mut line, mut at) = (1, 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'\n' => line += 1,
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                found.push((line, Token::Word(&code[start..at])));
            }
            b':' if bytes.get(at) == Some(&b':') => {
                at += 1;
                found.push((line, Token::PathSeparator));
            }
            byte if byte.is_ascii_whitespace() => {}
            byte => found.push((line, Token::Mark(byte))),
        }
    }
    found
}

fn references(code: &str) -> Vec<Reference> {
    let tokens = tokens(code);
    let kind = |at: usize| tokens.get(at).map(|(_, token)| *token);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = tokens[at];
        at += 1;
        let Token::Word(word) = token else { continue };
        // `use<'a>` in a return type is no import.
        if word == "use" && kind(at) != Some(Token::Mark(b'<')) {
            at = use_tree(&tokens, at, &[], &mut found);
            continue;
        }
        let mut path = vec![word.to_owned()];
        while let (Some(Token::PathSeparator), Some(Token::Word(next))) = (kind(at), kind(at + 1)) {
            path.push(next.to_owned());
            at += 2;
        }
        if path.len() > 1 {
            found.push(Reference { line, path });
        }
    }
    found
}

/// Takes one import tree apart, from `at` on, and returns where it ends.
fn use_tree(
    tokens: &[(usize, Token<'_>)],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<Reference>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some((line, token)) = tokens.get(at) {
        at += 1;
        match token {
            Token::PathSeparator => {}
            Token::Mark(b'{') => {
                while !matches!(tokens.get(at), None | Some((_, Token::Mark(b'}' | b';')))) {
                    at = use_tree(tokens, at, &path, found);
                    while matches!(tokens.get(at), Some((_, Token::Mark(b',')))) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Token::Word(_) | Token::Mark(b'*') => {
                path.push(if let Token::Word(word) = token { (*word).to_owned() } else { "*".to_owned() });
                if tokens.get(at).map(|(_, next)| *next) == Some(Token::PathSeparator) {
                    continue;
                }
                found.push(Reference { line: *line, path });
                // An alias is of no interest.
                if matches!(tokens.get(at), Some((_, Token::Word("as")))) {
                    at += 2;
                }
                return at;
            }
            Token::Mark(_) => return at,
        }
    }
    at
}

fn functions(code: &str) -> Vec<Function> {
    let tokens = tokens(code);
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, (line, token)) in tokens.iter().enumerate() {
        // `fn(u8) -> u8` is a type.
        let (Token::Word("fn"), Some((_, Token::Word(name)))) = (token, tokens.get(at + 1)) else { continue };
        let mut nesting = 0_usize;
        let open = tokens[at..].iter().position(|(_, token)| {
            match token {
                Token::Mark(b'(' | b'[') => nesting += 1,
                Token::Mark(b')' | b']') => nesting = nesting.saturating_sub(1),
                Token::Word(_) | Token::PathSeparator | Token::Mark(_) => {}
            }
            nesting == 0 && matches!(token, Token::Mark(b'{' | b';'))
        });
        let Some(open) = open.map(|offset| at + offset) else { continue };
        if tokens[open].1 == Token::Mark(b';') {
            continue;
        }
        let (first, last) = (tokens[open].0, tokens[matching_brace(&tokens, open)].0);
        let inside = lines.get(first..last.saturating_sub(1)).unwrap_or_default();
        let body_lines = inside.iter().filter(|line| !line.trim().is_empty()).count();
        found.push(Function { line: *line, name: (*name).to_owned(), body_lines });
    }
    found
}

fn matching_brace(tokens: &[(usize, Token<'_>)], open: usize) -> usize {
    let mut nesting = 0_usize;
    for (at, (_, token)) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Mark(b'{') => nesting += 1,
            Token::Mark(b'}') => nesting = nesting.saturating_sub(1),
            Token::Word(_) | Token::PathSeparator | Token::Mark(_) => {}
        }
        if nesting == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// Replaces comments and literals by spaces.
fn blank_text(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_blank(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn end_of_blank(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    let after_word = at > 0 && is_word(bytes[at - 1]);
    match rest[0] {
        b'"' => at + quoted(rest, b'"'),
        b'r' | b'b' | b'c' if !after_word => at + prefixed_string(rest).unwrap_or(0),
        b'\'' => at + char_literal(rest).unwrap_or(0),
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut nesting, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            nesting += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            nesting -= 1;
            at += 2;
            if nesting == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a quoted literal that begins at its first quote.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a literal such as `r#"..."#`, `b"..."`, `br"..."`; `None` for words and raw identifiers.
fn prefixed_string(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    if !matches!(&rest[..prefix], b"r" | b"b" | b"c" | b"br" | b"cr") {
        return None;
    }
    if rest[prefix - 1] != b'r' {
        return (rest.get(prefix) == Some(&b'"')).then(|| prefix + quoted(&rest[prefix..], b'"'));
    }
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let inside = rest[open + 1..].windows(close.len()).position(|window| window == close);
    Some(inside.map_or(rest.len(), |length| open + 1 + length + close.len()))
}

/// Length of a character literal; `None` for a lifetime.
fn char_literal(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    let width = 1 + rest.iter().skip(2).take_while(|byte| **byte & 0xC0 == 0x80).count();
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// Blanks what is compiled for tests only. Returns the rest, the number of lines blanked, and the names of the
/// modules that are declared for tests only.
fn blank_test_items(code: &str) -> (String, usize, Vec<String>) {
    let mut bytes = code.as_bytes().to_vec();
    let (mut lines, mut modules) = (0, Vec::new());
    let mut from = 0;
    while let Some(start) =
        ["#[cfg(test)]", "#[cfg(all(test,"].iter().filter_map(|mark| code[from..].find(mark)).min()
    {
        let start = from + start;
        let end = end_of_item(code.as_bytes(), start);
        let item = &code[start..end];
        let words: Vec<&str> = item.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        if let (Some(at), true) = (words.iter().rposition(|word| *word == "mod"), item.ends_with(';')) {
            modules.extend(words.get(at + 1).map(|name| (*name).to_owned()));
        }
        lines += item.lines().count();
        for byte in &mut bytes[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end;
    }
    (String::from_utf8_lossy(&bytes).into_owned(), lines, modules)
}

/// End of the item whose attribute starts at `start`: its `;`, or the brace that closes its body.
fn end_of_item(code: &[u8], start: usize) -> usize {
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for (at, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b'{' => braces += 1,
            b'}' => braces = braces.saturating_sub(1),
            _ => {}
        }
        if matches!(byte, b'}' | b';') && brackets == 0 && braces == 0 {
            return at + 1;
        }
    }
    code.len()
}
