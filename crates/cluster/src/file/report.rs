//! What is wrong with a file, for a person: where, the line, what was expected, what to do.

use std::ops::Range;
use std::path::Path;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

/// Most errors shown at once: more would scroll the first ones away.
const MAX_SHOWN: usize = 20;
/// Widest piece of a line that is shown, columns: of a longer one the part around what is marked.
const MAX_WIDTH: usize = 110;
/// Longest piece of a value that a message repeats, characters.
const MAX_QUOTED: usize = 60;
/// Longest message of somebody else that is repeated, characters: more than any without a value in it.
const MAX_FOREIGN: usize = 200;

/// A piece of one line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// From 1.
    pub(super) line: usize,
    /// From 1, characters.
    pub(super) column: usize,
    /// Characters; may reach beyond the line.
    pub(super) width: usize,
}

impl Mark {
    /// Where a file without any content is wrong.
    pub(super) const START: Self = Self { line: 1, column: 1, width: 1 };

    /// The first character after `text`.
    pub(super) fn after(text: &str) -> Self {
        let last = lines(text).last().unwrap_or_default();
        Self { line: lines(text).count(), column: last.chars().count() + 1, width: 1 }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diagnostic {
    mark: Mark,
    message: String,
    related: Option<(String, Mark)>,
    cause: Option<String>,
    help: Option<String>,
}

impl Diagnostic {
    /// `message` is one line, about what stands at `mark`.
    pub(super) fn new(mark: Mark, message: impl Into<String>) -> Self {
        Self { mark, message: message.into(), related: None, cause: None, help: None }
    }

    /// Another place that explains this one.
    pub(super) fn related(mut self, label: impl Into<String>, mark: Mark) -> Self {
        self.related = Some((label.into(), mark));
        self
    }

    /// The system's own words.
    pub(super) fn cause(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(clean(&cause.to_string()));
        self
    }

    /// What to do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The message for all of `found` in the file at `path`, in the order of its lines.
pub(super) fn render(path: &Path, text: &str, found: &[Diagnostic]) -> String {
    let name = clean(&path.to_string_lossy());
    let lines: Vec<_> = lines(text).collect();
    let mut found: Vec<_> = found.iter().collect();
    found.sort_by_key(|d| (d.mark.line, d.mark.column));
    let mut shown: Vec<_> = found.iter().take(MAX_SHOWN).map(|d| d.render(&name, &lines)).collect();
    if found.len() > MAX_SHOWN {
        let more = found.len() - MAX_SHOWN;
        let errors = if more == 1 { "error is" } else { "errors are" };
        shown.push(format!("{name}: {more} more {errors} not shown"));
    }
    shown.join("\n\n")
}

impl Diagnostic {
    /// The title is ours and not the library's `error: … --> file`: a first line that says all stands alone in a log.
    fn render(&self, name: &str, lines: &[&str]) -> String {
        let title = format!("{name}:{}:{}: {}", self.mark.line, self.mark.column, self.message);
        let report = Group::with_title(Level::ERROR.no_name().primary_title(title));
        let cause = self.cause.as_deref().map(|cause| Level::NOTE.with_name("cause").message(cause));
        let help = self.help.as_deref().map(|help| Level::HELP.message(help));
        let report = report.elements(self.snippets(name, lines)).elements(cause).elements(help);
        Renderer::plain().term_width(MAX_WIDTH).render(&[report])
    }

    /// The marked lines; none where the first mark is on a blank one.
    fn snippets(&self, name: &str, lines: &[&str]) -> Vec<Snippet<'_, Annotation<'_>>> {
        let marked = lines.get(self.mark.line.saturating_sub(1)).copied().unwrap_or_default();
        if marked.trim().is_empty() {
            return Vec::new();
        }
        let here = (AnnotationKind::Primary, self.mark, None);
        let Some((label, mark)) = &self.related else { return vec![snippet(lines, &[here])] };
        let other = (AnnotationKind::Context, *mark, Some(label.as_str()));
        // The library shows all between the first and the last mark, however far to the right.
        if self.mark.column.abs_diff(mark.column) < MAX_WIDTH {
            vec![snippet(lines, &[here, other])]
        } else {
            vec![snippet(lines, &[here]), snippet(lines, &[other]).path(name.to_owned())]
        }
    }
}

/// The lines with `marks` in them.
fn snippet<'a>(
    lines: &[&str],
    marks: &[(AnnotationKind, Mark, Option<&'a str>)],
) -> Snippet<'a, Annotation<'a>> {
    let numbers = marks.iter().map(|(_, mark, _)| mark.line);
    let (first, last) = numbers.fold((usize::MAX, 0), |(low, high), n| (low.min(n), high.max(n)));
    let before = first.saturating_sub(1);
    let shown: Vec<_> = lines.iter().take(last).skip(before).map(|line| clean_line(line)).collect();
    let annotation = |(kind, mark, label): &(AnnotationKind, Mark, Option<&'a str>)| {
        kind.span(span(&shown, mark.line - first, *mark)).label(*label)
    };
    let annotations: Vec<_> = marks.iter().map(annotation).collect();
    Snippet::source(shown.join("\n")).line_start(first).annotations(annotations)
}

/// The bytes that `mark` covers in `lines`, joined; it is on the one at `index`.
fn span(lines: &[String], index: usize, mark: Mark) -> Range<usize> {
    let before: usize = lines.iter().take(index).map(|line| line.len() + 1).sum();
    let line = lines.get(index).map_or("", String::as_str);
    let at = |column: usize| before + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
    let start = mark.column.saturating_sub(1);
    at(start)..at(start.saturating_add(mark.width))
}

/// `text` in quotes, cut to a length for messages, nothing in it that could act on a terminal.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", cut(text, MAX_QUOTED))
}

/// `text` as [`quoted`], without quotes.
pub(super) fn bare(text: &str) -> String {
    clean(&cut(text, MAX_QUOTED))
}

/// A message of somebody else, cut to a length, nothing in it that could act on a terminal.
pub(super) fn foreign(text: &str) -> String {
    clean(&cut(text, MAX_FOREIGN))
}

fn cut(text: &str, longest: usize) -> String {
    let mut cut: String = text.chars().take(longest).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// `text` with nothing in it that could act on a terminal.
pub(super) fn clean(text: &str) -> String {
    text::clean(text).into_owned()
}

/// The characters that `mark` covers, within its line.
pub(super) fn slice(text: &str, mark: Mark) -> String {
    let line = lines(text).nth(mark.line.saturating_sub(1)).unwrap_or_default();
    line.chars().skip(mark.column.saturating_sub(1)).take(mark.width).collect()
}

/// A line with nothing in it that could act on a terminal; the library shows a tab as spaces.
fn clean_line(line: &str) -> String {
    line.trim_end().chars().map(|c| if c == '\t' { c } else { text::clean_char(c) }).collect()
}

/// Lines as YAML counts them: ended by LF, CR LF or CR alone. A byte order mark belongs to none.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text.strip_prefix('\u{feff}').unwrap_or(text));
    std::iter::from_fn(move || {
        let text = rest?;
        let Some((line, after)) = text.split_once(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let cr = text.as_bytes().get(line.len()) == Some(&b'\r');
        rest = Some(if cr { after.strip_prefix('\n').unwrap_or(after) } else { after });
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(line: usize, column: usize, width: usize) -> Mark {
        Mark { line, column, width }
    }

    #[test]
    fn the_marked_piece_stands_under_its_line() {
        let d = Diagnostic::new(mark(2, 4, 3), "wrong").help("do better");
        let expected = "f:2:4: wrong\n  |\n2 | b: xyz\n  |    ^^^\n  |\n  = help: do better";
        assert_eq!(render(Path::new("f"), "a: 1\nb: xyz\n", &[d]), expected);
    }

    #[test]
    fn a_mark_behind_wide_characters_and_tabs_is_aligned_with_what_is_shown() {
        let d = Diagnostic::new(mark(1, 4, 2), "wrong");
        assert_eq!(
            render(Path::new("f"), "主\t:好x", &[d]),
            "f:1:4: wrong\n  |\n1 | 主    :好x\n  |        ^^^"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("{}x{}", "a".repeat(400), "b".repeat(400));
        let shown = render(Path::new("f"), &text, &[Diagnostic::new(mark(1, 401, 1), "wrong")]);
        let rows: Vec<_> = shown.lines().collect();
        assert!(rows[2].chars().count() < 120, "{shown}");
        assert_eq!(rows[2].chars().position(|c| c == 'x'), rows[3].chars().position(|c| c == '^'), "{shown}");
    }

    #[test]
    fn many_errors_in_one_huge_line_are_shown_shortly_and_soon() {
        let text = "a".repeat(256 * 1024);
        let found: Vec<_> = (1..=MAX_SHOWN)
            .map(|n| {
                Diagnostic::new(mark(1, n * 12_000, 400), "wrong").related("here", mark(1, 9, 1_000_000))
            })
            .collect();
        let started = std::time::Instant::now();
        let shown = render(Path::new("f"), &text, &found);
        assert!(shown.len() < 1000 * MAX_SHOWN, "{} bytes:\n{shown}", shown.len());
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    #[test]
    fn nothing_from_a_file_acts_on_the_terminal() {
        let d = Diagnostic::new(mark(1, 1, 1), format!("{} is wrong", quoted("\u{1b}[2J\u{202e}")));
        let shown = render(Path::new("f\u{1b}"), "\u{1b}[2J \u{202e}x\u{7f}\u{85}", &[d]);
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{7f}', '\u{85}']), "{shown:?}");
    }

    #[test]
    fn lines_end_as_yaml_ends_them() {
        assert_eq!(lines("\u{feff}a\r\nb\rc\n\nd").collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
        assert_eq!(Mark::after("a\r\nbc"), mark(2, 3, 1));
    }

    #[test]
    fn more_errors_than_fit_are_counted() {
        let found = vec![Diagnostic::new(Mark::START, "wrong"); MAX_SHOWN + 7];
        assert!(render(Path::new("f"), "a", &found).ends_with("f: 7 more errors are not shown"));
    }
}
