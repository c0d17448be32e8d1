//! Tables for people: rows of words under a heading, each column as wide as its longest word.

use serde_json::Value;

use super::admin::printable;

/// Lines of `rows` under `heading`, columns two spaces apart, nothing at the end of a line.
pub(super) fn columns<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |at: usize| {
        let words = rows.iter().map(|row| row[at].as_str()).chain([heading[at]]);
        words.map(|word| word.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |words: [&str; N]| {
        let padded = words.iter().zip(widths).map(|(word, width)| format!("{word:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let told = rows.iter().map(|row| line(std::array::from_fn(|at| row[at].as_str())));
    [line(heading)].into_iter().chain(told).collect()
}

/// A text of an answer, `-` if there is none.
pub(super) fn word(value: &Value) -> String {
    value.as_str().filter(|text| !text.is_empty()).map_or_else(|| "-".to_owned(), printable)
}

/// Words with commas between them, `-` if there are none.
pub(super) fn words(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_word() {
        let rows = [["é".to_owned(), "x".to_owned()], ["longer".to_owned(), "-".to_owned()]];
        assert_eq!(columns(["A", "B"], &rows), "A       B\né       x\nlonger  -\n");
        assert_eq!(columns(["A", "B"], &[]), "A  B\n");
    }

    #[test]
    fn a_terminal_takes_no_commands_from_an_answer() {
        assert_eq!(word(&Value::from("a\u{1b}[2Jb")), "a [2Jb");
        assert_eq!((word(&Value::Null), word(&Value::from(""))), ("-".to_owned(), "-".to_owned()));
    }
}
