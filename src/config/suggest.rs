//! "Did you mean": finds the word that somebody probably had in mind.

/// The candidate closest to `word`, if one is close enough to be worth naming: equal but for case, `-` and `_`
/// (which catches camelCase); known under another name in another tool (`aliases`: foreign → ours); or within
/// an edit distance of a third of its length.
pub(super) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
    aliases: &[(&str, &'static str)],
) -> Option<&'c str> {
    // A longer word is no slip of the keyboard, and the distance costs the product of both lengths.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let folded = fold(word);
    let alias = aliases.iter().find(|(foreign, _)| fold(foreign) == folded).map(|(_, ours)| *ours);
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = if fold(candidate) == folded || alias == Some(candidate) {
                0
            } else {
                strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase())
            };
            (distance <= allowed).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn fold(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["timeout", "idle_timeout", "service", "endpoints"];

    #[test]
    fn slips_camel_case_and_foreign_names_are_recognised() {
        assert_eq!(closest("timout", KEYS, &[]), Some("timeout"));
        assert_eq!(closest("idleTimeout", KEYS, &[]), Some("idle_timeout"));
        assert_eq!(closest("cluster", KEYS, &[("cluster", "service")]), Some("service"));
    }

    #[test]
    fn nothing_is_suggested_for_a_word_that_is_far_from_all() {
        assert_eq!(closest("gossip", KEYS, &[]), None);
        assert_eq!(closest("x", ["y_axis"], &[]), None);
    }
}
