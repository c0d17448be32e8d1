//! What linearizability of single keys leaves open: revisions are of the whole store, so their order is that of time across
//! all keys, and a change has one.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Asked, Line, Outcome};

/// What is wrong with the revisions of a history; empty if nothing is.
pub fn faults(lines: &[Line]) -> Vec<String> {
    let mut faults = one_each(lines);
    faults.extend(in_time(lines));
    faults
}

/// A value, which is written once, has one revision whoever tells it, and a revision one value.
fn one_each(lines: &[Line]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut revisions: HashMap<(&str, &str), u64> = HashMap::new();
    let mut values: HashMap<u64, (&str, &str)> = HashMap::new();
    for (number, line) in lines.iter().enumerate() {
        let told = match (&line.asked, line.outcome) {
            (Asked::Get { value: Some(value) } | Asked::Put { value }, Outcome::Ok) => value,
            (Asked::Cas { value, held: Some(true), .. }, Outcome::Ok) => value,
            _ => continue,
        };
        let Some(revision) = line.revision else { continue };
        let change = (line.key.as_str(), told.as_str());
        let (known, owner) =
            (*revisions.entry(change).or_insert(revision), *values.entry(revision).or_insert(change));
        if known != revision || owner != change {
            faults.push(format!(
                "line {}: {change:?} is of revision {revision}; before, it was of {known}, and {revision} was {owner:?}",
                number + 1
            ));
        }
    }
    faults
}

/// A change that was asked for after another was acknowledged has a larger revision.
fn in_time(lines: &[Line]) -> Vec<String> {
    let changes: Vec<(usize, &Line, u64)> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.outcome == Outcome::Ok && line.asked.changes())
        .filter_map(|(number, line)| Some((number + 1, line, line.revision?)))
        .collect();
    // The largest revision that was acknowledged up to an instant.
    let mut ends: Vec<(i64, u64, usize)> =
        changes.iter().filter_map(|(number, line, revision)| Some((line.end?, *revision, *number))).collect();
    ends.sort_unstable();
    let mut largest: BTreeMap<i64, (u64, usize)> = BTreeMap::new();
    let mut most = (0, 0);
    for (end, revision, number) in ends {
        most = most.max((revision, number));
        largest.insert(end, most);
    }
    let mut faults = Vec::new();
    for (number, line, revision) in changes {
        if let Some((_, (before, by))) = largest.range(..line.call).next_back()
            && *before >= revision
        {
            faults.push(format!(
                "line {number}: its revision is {revision}, but line {by} was acknowledged before with {before}"
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    fn faults_of(lines: &[&str]) -> usize {
        faults(&History::read(lines.join("\n").as_bytes()).unwrap().lines).len()
    }

    fn put(key: &str, value: &str, (call, end): (i64, i64), revision: u64) -> String {
        format!(
            r#"{{"client":0,"key":"{key}","op":"put","value":"{value}","outcome":"ok","call":{call},"return":{end},"revision":{revision}}}"#
        )
    }

    #[test]
    fn revisions_are_in_the_order_of_time_across_keys() {
        assert_eq!(faults_of(&[&put("a", "1", (0, 1), 5), &put("b", "2", (2, 3), 6)]), 0);
        assert_eq!(faults_of(&[&put("a", "1", (0, 1), 6), &put("b", "2", (2, 3), 5)]), 1);
        // At the same time either may be first.
        assert_eq!(faults_of(&[&put("a", "1", (0, 3), 6), &put("b", "2", (2, 4), 5)]), 0);
        // The one before the last counts as well.
        let three = [put("a", "1", (0, 1), 9), put("b", "2", (0, 2), 3), put("a", "3", (4, 5), 8)];
        assert_eq!(faults_of(&[&three[0], &three[1], &three[2]]), 1);
    }

    #[test]
    fn a_value_has_one_revision_and_a_revision_one_value() {
        let read = r#"{"client":1,"key":"a","op":"get","value":"1","outcome":"ok","call":8,"return":9,"revision":6}"#;
        assert_eq!(faults_of(&[&put("a", "1", (0, 1), 6), read]), 0);
        assert_eq!(faults_of(&[&put("a", "1", (0, 1), 5), read]), 1);
        assert_eq!(faults_of(&[&put("a", "1", (0, 3), 5), &put("a", "2", (0, 3), 5)]), 1);
    }
}
