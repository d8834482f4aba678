//! Any YAML text → a tree in which every value knows its place. The one module that names the YAML library.
//!
//! The schema is checked on this tree and not by serde's derived code: so every error can be shown at once, in our
//! words, and equal keys can show both places.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::{Error, ExternalMessageSource, MessageFormatter as _, Spanned, UserMessageFormatter};

use super::report::{self, Diagnostic, Mark};

/// Most values in one file, those repeated through aliases counted again: a cluster of the most edge ports, each
/// with an entry and options of its own, has 4000.
const MAX_NODES: usize = 20_000;
/// Deepest nesting: the schema needs 5.
const MAX_DEPTH: usize = 16;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Location,
    pub(super) value: Value,
}

/// Where a value takes effect and where it is written; they differ when it comes through an alias or a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) used: Mark,
    pub(super) written: Mark,
}

impl Location {
    /// An error at this place; where an alias brought the value, both places are shown.
    pub(super) fn diagnostic(self, message: impl Into<String>) -> Diagnostic {
        let d = Diagnostic::new(self.used, message);
        if self.used == self.written { d } else { d.related("the value is written here", self.written) }
    }
}

/// A YAML value as its text is commonly understood (YAML 1.2 core schema).
#[derive(Clone, Debug)]
pub(super) enum Value {
    Nothing,
    Bool(bool),
    Whole(i128),
    /// A number with a fraction or an exponent, or beyond 64 bits.
    Real,
    Text(String),
    List(Vec<Node>),
    /// Keys and values in the file's order, equal keys kept.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// The text of a scalar: what is written, also where YAML would read a number or a truth value.
    pub(super) fn text(&self, source: &str) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Bool(_) | Value::Whole(_) | Value::Real => Some(report::slice(source, self.place.written)),
            Value::Nothing | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What stands here, in words.
    pub(super) fn found(&self, source: &str) -> String {
        match &self.value {
            Value::Nothing => "nothing".into(),
            Value::Bool(_) | Value::Whole(_) | Value::Real => {
                report::bare(&report::slice(source, self.place.written))
            }
            Value::Text(text) => format!("the text {}", report::quoted(text)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "keys and values".into(),
        }
    }
}

/// Reads one YAML document.
pub(super) fn parse(text: &str) -> Result<Node, Vec<Diagnostic>> {
    let document: Spanned<Value> = from_str(text)?;
    Ok(document.into())
}

/// Reads one YAML document as `T`.
pub(super) fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Vec<Diagnostic>> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|e| vec![diagnostic(&e, text)])
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            flow_nesting_limit: MAX_DEPTH,
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_recorded_anchor_events: 4 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 4 * MAX_NODES },
        // `check` compares keys itself, and shows both places.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        // `on`, `yes` and `0777` mean different things to different readers; here they are text.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// An error of the library in our words where its own are for programmers.
fn diagnostic(error: &Error, text: &str) -> Diagnostic {
    let mark = error.location().map_or(Mark::START, |l| Mark { width: 1, ..mark(l) });
    let mut error = error;
    while let Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    let (message, help) = match error {
        Error::MultipleDocuments { .. } => (
            "a second document starts here".to_owned(),
            "one file describes one cluster: remove what follows `---` or `...`",
        ),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            ("this alias is part of what it stands for".to_owned(), "")
        }
        Error::UnknownAnchor { .. } => {
            ("this alias stands for nothing".to_owned(), "text that starts with `*` or `&` needs quotes")
        }
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => (beyond_limits(), ""),
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => syntax(error.kind(), &report::slice(text, mark)),
            // Validators of derived types, of which there are none here.
            _ => (foreign(error), ""),
        },
        _ => (foreign(error), ""),
    };
    let diagnostic = Diagnostic::new(mark, message);
    if help.is_empty() { diagnostic } else { diagnostic.help(help) }
}

/// What is wrong with the syntax, and what to do; `at` is the character in question.
fn syntax(kind: &ErrorKind, at: &str) -> (String, &'static str) {
    const BLOCKS: &str = "lines that belong together start in the same column, under the line they belong to";
    const BRACKETS: &str =
        "between brackets, entries are separated by commas; each bracket is closed by its like";
    const TAB: (&str, &str) = ("a tab in front of a value", "YAML is indented with spaces: replace the tab");
    let (message, help) = match kind {
        ErrorKind::RecursionLimitExceeded => return (beyond_limits(), ""),
        ErrorKind::UnclosedFlowCollection { open } => {
            return (format!("the bracket '{open}' is never closed"), "");
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            return (format!("the bracket '{open}' is closed by '{close}'"), BRACKETS);
        }
        // A tab that stands where something else is missed is the cause.
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => TAB,
        _ if at == "\t" => TAB,
        ErrorKind::MappingValueNotAllowed => (
            "this `:` does not belong here",
            "is a space missing after the `:` of a line above, or is this line indented too far? Text with `: ` in it needs quotes",
        ),
        ErrorKind::SimpleKeyExpected => {
            ("expected `key: value`", "is a space missing after the `:`, or the `:` itself?")
        }
        ErrorKind::InvalidColonPlacement => {
            ("this `:` does not belong here", "is a bracket or a quote of a line above still open?")
        }
        ErrorKind::ExpectedBlockMappingKey => {
            ("expected a `key: value` in the column of the keys above, or the end of the block", BLOCKS)
        }
        ErrorKind::ExpectedBlockSequenceEntry => {
            ("expected another `- ` in the column of those above, or the end of the list", BLOCKS)
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => {
            ("expected `,` or the closing bracket before this", BRACKETS)
        }
        ErrorKind::InvalidQuotedScalarIndent => {
            ("text in quotes goes on in this line", "is the closing quote of a line above missing?")
        }
        kind => return (format!("not YAML: {}", report::foreign(&kind.to_string())), ""),
    };
    (message.to_owned(), help)
}

fn beyond_limits() -> String {
    format!(
        "too many or too deeply nested values for a cluster file ({MAX_NODES} and {MAX_DEPTH} are the limits)"
    )
}

/// The library's own words, for what a person rarely meets.
fn foreign(error: &Error) -> String {
    format!("not YAML: {}", report::foreign(&UserMessageFormatter.format_message(error)))
}

fn mark(location: serde_saphyr::Location) -> Mark {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    #[allow(clippy::useless_conversion, reason = "the type of a span depends on a feature of the library")]
    let width = number(location.span().len().into());
    Mark { line: number(location.line()), column: number(location.column()), width }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        let place = Location { used: mark(spanned.referenced), written: mark(spanned.defined) };
        Self { place, value: spanned.value }
    }
}

impl<'de> serde::Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Real)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element::<Spanned<Value>>()? {
            nodes.push(node.into());
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<Value>, Spanned<Value>>()? {
            entries.push((key.into(), value.into()));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_through_an_alias_knows_both_places() {
        let tree = parse("a: &p [1935]\nb: *p\n").unwrap();
        let Value::Map(entries) = tree.value else { panic!() };
        let Value::List(items) = &entries[1].1.value else { panic!() };
        let place = items[0].place;
        assert_eq!((place.used.line, place.used.column), (2, 4));
        assert_eq!((place.written.line, place.written.column, place.written.width), (1, 8, 4));
    }

    #[test]
    fn a_scalar_keeps_the_text_it_was_written_with() {
        let text = "[1e3, 0x10, true, 1_000, 007, '12', 99999999999999999999999]";
        let Value::List(items) = parse(text).unwrap().value else { panic!() };
        let texts: Vec<_> = items.iter().filter_map(|n| n.text(text)).collect();
        assert_eq!(texts, ["1e3", "0x10", "true", "1_000", "007", "12", "99999999999999999999999"]);
    }

    #[test]
    fn hostile_text_is_refused_quickly() {
        let aliases: String = ('b'..='j')
            .map(|c| format!("{c}: &{c} [{}]\n", format!("*{},", (c as u8 - 1) as char).repeat(10)))
            .collect();
        let mib = super::super::MAX_FILE;
        let hostile = [
            format!("a: &a [{}]\n{aliases}", "x,".repeat(10)),
            "[".repeat(mib),
            "{".repeat(mib),
            "{a: ".repeat(mib / 4),
            "- ".repeat(mib / 2),
            "? ".repeat(mib / 2),
            "a\n".repeat(mib / 2),
            "- a\n".repeat(mib / 4),
            "&a ".repeat(mib / 3),
            "!".repeat(mib),
            format!("a: \"{}", "\\".repeat(mib - 4)),
            format!("a: |\n{}", " \n".repeat(mib / 2 - 4)),
            "\u{1}".repeat(mib),
            (0..mib / 20).map(|i| format!("key{i}: &a{i} v\n")).collect(),
            format!("{}: 1", "k".repeat(mib - 3)),
        ];
        for text in hostile {
            let started = std::time::Instant::now();
            let _ = parse(&text);
            let start: String = text.chars().take(20).collect();
            assert!(started.elapsed().as_secs() < 5, "{start:?} took {:?}", started.elapsed());
        }
    }
}
