//! Histories: what clients did, what they were told, and when. Reads JSON lines; judges nothing.

use std::{
    collections::{BTreeMap, HashMap},
    io::BufRead,
};

use serde::Deserialize;

/// When an operation ends of which nobody knows whether it happened: it may still.
pub const NEVER: i64 = i64::MAX;

/// A line of a history.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub key: String,
    #[serde(flatten)]
    pub asked: Asked,
    pub outcome: Outcome,
    /// Nanoseconds of one monotonic clock.
    pub call: i64,
    /// Likewise; `null` if there was no answer.
    #[serde(rename = "return")]
    pub end: Option<i64>,
    /// The revision of the change that was made or read.
    #[serde(default)]
    pub revision: Option<u64>,
    /// As it was read. What else it says, which client asked whom, is for people.
    #[serde(skip)]
    pub text: String,
}

/// What was asked, and answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Asked {
    /// `value` is what was read, `null` if there was no key.
    Get {
        value: Option<String>,
    },
    Put {
        value: String,
    },
    /// Sets `value` if what is there is `expected`, `null` for no key. `held` is the answer.
    Cas {
        expected: Option<String>,
        value: String,
        held: Option<bool>,
    },
    /// `deleted` is the answer: whether there was a key.
    Delete {
        deleted: Option<bool>,
    },
}

impl Asked {
    /// Whether the answer says that something was changed.
    pub fn changes(&self) -> bool {
        match self {
            Self::Get { .. } => false,
            Self::Put { .. } => true,
            Self::Cas { held, .. } => *held == Some(true),
            Self::Delete { deleted } => *deleted == Some(true),
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was answered.
    Ok,
    /// It was refused before anything happened.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// A value of one key; 0 is none.
pub type Value = u32;

/// One operation on one key, as the models take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read this.
    Get(Value),
    Put(Value),
    /// `held` is `None` if nobody knows whether it held.
    Cas {
        expected: Value,
        value: Value,
        held: Option<bool>,
    },
    /// `was` is whether something was there; `None` if nobody knows.
    Delete {
        was: Option<bool>,
    },
}

impl Step {
    /// The state after it; `None` if it cannot have been answered so in `state`.
    pub fn apply(self, state: Value) -> Option<Value> {
        match self {
            Self::Get(value) => (value == state).then_some(state),
            Self::Put(value) => Some(value),
            Self::Cas { expected, value, held } => {
                let holds = expected == state;
                (held.is_none_or(|held| held == holds)).then_some(if holds { value } else { state })
            }
            Self::Delete { was } => (was.is_none_or(|was| was == (state != 0))).then_some(0),
        }
    }
}

/// An operation with its times.
#[derive(Clone, Debug)]
pub struct Timed {
    pub step: Step,
    pub call: i64,
    /// [`NEVER`] if there was no answer.
    pub end: i64,
    /// The line of the history, from 1.
    pub line: usize,
}

impl Timed {
    /// As it was known at an instant: what had no answer then may have happened in any way.
    pub fn as_of(&self, instant: i64) -> Self {
        if self.end <= instant {
            return self.clone();
        }
        let step = match self.step {
            Step::Cas { expected, value, .. } => Step::Cas { expected, value, held: None },
            Step::Delete { .. } => Step::Delete { was: None },
            step @ (Step::Get(_) | Step::Put(_)) => step,
        };
        Self { step, end: NEVER, ..self.clone() }
    }
}

/// All lines of a history.
pub struct History {
    pub lines: Vec<Line>,
}

impl History {
    /// Reads JSON lines.
    ///
    /// # Errors
    /// Which line is not one, and why.
    pub fn read(from: impl BufRead) -> Result<Self, String> {
        let mut lines = Vec::new();
        for (number, text) in from.lines().enumerate() {
            let named = |error: String| format!("line {}: {error}", number + 1);
            let text = text.map_err(|error| named(error.to_string()))?;
            let mut line: Line = serde_json::from_str(&text).map_err(|error| named(error.to_string()))?;
            line.check().map_err(named)?;
            line.text = text;
            lines.push(line);
        }
        Ok(Self { lines })
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome == outcome).count()
    }

    /// What may have happened, key by key, in the order of the calls. Reads without an answer say nothing, and what was
    /// refused has not happened: if it has after all, somebody reads a value that nobody wrote.
    pub fn by_key(&self) -> BTreeMap<&str, Vec<Timed>> {
        let mut keys: BTreeMap<&str, Vec<Timed>> = BTreeMap::new();
        let mut values = Values::default();
        for (number, line) in self.lines.iter().enumerate() {
            let timed = keys.entry(&line.key).or_default();
            if let Some(step) = line.step(&mut values) {
                let end = if line.outcome == Outcome::Ok { line.end } else { None };
                timed.push(Timed { step, call: line.call, end: end.unwrap_or(NEVER), line: number + 1 });
            }
        }
        for timed in keys.values_mut() {
            timed.sort_by_key(|one| one.call);
        }
        keys
    }
}

/// Numbers for values. What two keys call the same has the same number, which does no harm.
#[derive(Default)]
struct Values<'a>(HashMap<&'a str, Value>);

impl<'a> Values<'a> {
    fn number(&mut self, text: &'a str) -> Value {
        let next = Value::try_from(self.0.len() + 1).unwrap_or(Value::MAX);
        *self.0.entry(text).or_insert(next)
    }

    fn or_none(&mut self, text: &'a Option<String>) -> Value {
        text.as_ref().map_or(0, |text| self.number(text))
    }
}

impl Line {
    /// Refuses what a model would take for something else.
    fn check(&self) -> Result<(), String> {
        if self.outcome != Outcome::Ok {
            return Ok(());
        }
        match (&self.asked, self.end) {
            (_, None) => Err("it was answered, but not at any time".to_owned()),
            (_, Some(end)) if end < self.call => Err("it was answered before it was asked".to_owned()),
            (Asked::Cas { held: None, .. } | Asked::Delete { deleted: None }, _) => {
                Err("it was answered, but not what".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn step<'a>(&'a self, values: &mut Values<'a>) -> Option<Step> {
        let is_answered = match self.outcome {
            Outcome::Failed => return None,
            Outcome::Ok => true,
            Outcome::Unknown => false,
        };
        Some(match &self.asked {
            Asked::Get { .. } if !is_answered => return None,
            Asked::Get { value } => Step::Get(values.or_none(value)),
            Asked::Put { value } => Step::Put(values.number(value)),
            Asked::Cas { expected, value, held } => Step::Cas {
                expected: values.or_none(expected),
                value: values.number(value),
                held: held.filter(|_| is_answered),
            },
            Asked::Delete { deleted } => Step::Delete { was: deleted.filter(|_| is_answered) },
        })
    }
}
