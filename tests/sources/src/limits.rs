//! docs/limits.md compared with the constants of the sources.

use std::collections::BTreeSet;

use crate::amount::Amount;
use crate::constants::Constant;

/// Where the bounds are listed.
pub(crate) const LIST: &str = "docs/limits.md";
/// The first lines of each of its tables.
const HEAD: [&str; 2] = ["| constant | value | file | why |", "| --- | --- | --- | --- |"];

/// Constants that bound nothing, by file: sizes that a format fixes, versions, a second.
pub(crate) const NO_BOUNDS: [(&str, &[&str]); 31] = [
    ("crates/bench/src/engine.rs", &["SECOND"]),
    // What the players of `make survive` do, and when they complain.
    ("crates/bench/src/exact/client.rs", &["ACKNOWLEDGED", "CHUNK_SIZE", "MSID", "PART"]),
    ("crates/bench/src/exact/frame.rs", &["LENGTH", "STAMP"]),
    ("crates/bench/src/exact/publisher.rs", &["GROUP", "MAX_BACKLOG", "PICTURE", "SOUND"]),
    (
        "crates/bench/src/exact/swarm.rs",
        &["EVENTS", "PART", "PART_PAUSE", "PATIENCE", "READ", "SLOW_BUFFER", "SLOW_READ", "STARVED", "TOLD"],
    ),
    ("crates/bench/src/play.rs", &["HANDSHAKE"]),
    ("crates/bench/src/processes.rs", &["USUAL_PORTS"]),
    ("crates/bench/src/scan.rs", &["EXTENDED", "MAX_HEADER"]),
    ("crates/bench/src/stamp.rs", &["DIGITS", "FRAME_HEADER", "HEAD", "NAL", "USER_DATA"]),
    ("crates/control/src/start.rs", &["SECRET"]),
    ("crates/control/src/fds.rs", &["TOKEN"]),
    ("crates/control/src/message.rs", &["VERSION"]),
    ("crates/remote/src/hello.rs", &["PROTO"]),
    ("crates/rtmp/src/auth.rs", &["TAG"]),
    ("crates/rtmp/src/chunk/header.rs", &["EXTENDED", "MAX_CSID", "MAX_HEADER"]),
    ("crates/rtmp/src/chunk/reader.rs", &["DEFAULT_CHUNK_SIZE"]),
    ("crates/rtmp/src/chunk/reader/record.rs", &["LONGEST"]),
    ("crates/rtmp/src/chunk/writer.rs", &["DELTA_HEADER", "EXTENSION", "FULL_HEADER", "MAX_MESSAGE"]),
    ("crates/rtmp/src/flv.rs", &["FILE_HEADER", "TAG_HEADER", "TRAILER"]),
    ("crates/rtmp/src/handshake.rs", &["PACKET", "TOTAL"]),
    ("crates/rtmp/src/line.rs", &["FAR"]),
    ("crates/rtmp/src/link.rs", &["MAX_RECEIVED"]),
    ("crates/rtmp/src/server/session/command.rs", &["SHORTEST"]),
    (
        "crates/shm/src/layout.rs",
        &[
            "ENTRY",
            "EPOCHS",
            "EPOCH_AT",
            "LAYOUT",
            "LAYOUT_AT",
            "OLDEST_LAYOUT",
            "MAGIC",
            "MAGIC_AT",
            "PAGE",
            "PLACES_AT",
            "SCRATCH_AT",
            "TABLE_AT",
            "WORDS",
            "WORDS_AT",
        ],
    ),
    ("crates/shm/src/slabs.rs", &["WORDS"]),
    ("crates/stream/src/blob.rs", &["KIND"]),
    ("crates/stream/src/clock.rs", &["FAR"]),
    ("crates/stream/src/framing.rs", &["HEADER"]),
    ("crates/stream/src/log/entries.rs", &["ENTRY"]),
    (
        "worker/src/keeping.rs",
        &[
            "CHANNEL",
            "CONN",
            "FAR",
            "FORWARD",
            "LINK",
            "OLDEST_RECORDS",
            "PLAYER",
            "PORT",
            "READS",
            "RECORDS",
            "SUSPECT",
            "VERSION",
        ],
    ),
    ("worker/src/proof.rs", &["DIALLED", "READ", "SENT"]),
];

/// Every way in which `list`, the text of docs/limits.md, differs from the constants of the product, of which `no_bounds` need no
/// row.
pub(crate) fn differences(list: &str, constants: &[Constant], no_bounds: &[(&str, &[&str])]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut listed = BTreeSet::new();
    for (index, line) in list.lines().enumerate() {
        if !line.starts_with('|') || HEAD.contains(&line) {
            continue;
        }
        let mut problem = |text: String| problems.push(format!("{LIST}:{}: {text}", index + 1));
        let Some((name, value, file)) = row(line) else {
            problem(format!("not a row such as {}", example("MAX_LINES", "5 000", "src/log.rs")));
            continue;
        };
        if !listed.insert((file, name)) {
            problem(format!("`{name}` of {file} is listed before"));
        }
        let named = constants.iter().filter(|one| one.name == name && one.file.to_str() == Some(file));
        match named.collect::<Vec<_>>().as_slice() {
            [] => problem(format!("there is no constant `{name}` in {file}")),
            [one] => match one.amount {
                None => {
                    problem(format!("the value of `{name}` in {file} is not understood by tests/sources"))
                }
                Some(amount) if Amount::parse(value) == Some(amount) => {}
                Some(amount) => problem(format!("`{name}` in {file} is {amount}, not {value}")),
            },
            _ => problem(format!("{file} has several constants `{name}`")),
        }
    }
    let no_bounds = no_bounds.iter().flat_map(|(file, names)| names.iter().map(|name| (*file, *name)));
    let mut no_bounds: BTreeSet<_> = no_bounds.collect();
    for one in constants.iter().filter(|one| one.is_bound) {
        let at = (one.file.to_str().unwrap_or_default(), one.name.as_str());
        if !listed.contains(&at) && !no_bounds.remove(&at) {
            let value = one.amount.map_or_else(|| "value".to_owned(), |amount| amount.to_string());
            problems.push(format!("{LIST} lacks {}", example(at.1, &value, at.0)));
        }
    }
    let needless = no_bounds.into_iter();
    problems.extend(needless.map(|(file, name)| format!("`{name}` of {file} need not be in NO_BOUNDS")));
    problems
}

fn example(name: &str, value: &str, file: &str) -> String {
    format!("| `{name}` | {value} | {file} | why |")
}

/// Constant, value and file of a line of a table.
fn row(line: &str) -> Option<(&str, &str, &str)> {
    let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let mut cells = cells.splitn(4, " | ");
    let (name, value, file, why) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
    let name = name.strip_prefix('`')?.strip_suffix('`')?;
    (!why.trim().is_empty()).then_some((name, value, file))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::constants::constants;
    use crate::names::Names;

    const LIB: &str = "
        mod log;
        /// The longest word, bytes.
        const MAX_WORD: usize = 4 << 10;
        pub struct Queue { /// Bytes of all.
            pub size: usize, kind: u8 }
        impl Queue { pub const LENGTHS: RangeInclusive<Span> = Span::from_millis(1_000)..=Span::from_secs(120); }
        impl Default for Queue { fn default() -> Self { Self { size: 2 * MAX_WORD, kind: 0 } } }
        mod kinds { /// A kind.
            pub const AUDIO: u8 = 8; }
        #[cfg(test)] mod tests { const LIMIT: u32 = 1; }
    ";
    const LOG: &str = "
        use std::time::Duration;
        impl Log { const STEP: Duration = Duration::from_secs(5); }
        const ALL: Duration = Log::STEP.saturating_mul(2).saturating_add(super::PAUSE);
        const SAME: Duration = ALL;
        /// Lines at once, at most; the smallest take 2 ms.
        fn write() { const LINES: u64 = 120_000; }
        /// Silence of this long is an end, ms.
        const SILENT: i64 = -10 * 1_000;
        /// Share of the core.
        const SHARE: f64 = 0.2;
        /// Bytes in front of a word.
        const HEADER: usize = 8;
        /// Name of a track.
        const NAME: &str = \"audio\";
    ";
    const ROWS: [&str; 7] = [
        "| `MAX_WORD` | 4 KiB | src/lib.rs | no word is as long |",
        "| `Queue::LENGTHS` | 1 s to 2 min | src/lib.rs | as a player may lag |",
        "| `PAUSE` | 50 ms | src/lib.rs | between two |",
        "| `Log::STEP` | 5 s | src/log.rs | one step |",
        "| `ALL` | 10.05 s | src/log.rs | all steps |",
        "| `LINES` | 120 000 lines | src/log.rs | a flood | is cut |",
        "| `SILENT` | -10 s | src/log.rs | an end |",
    ];

    /// What differs when docs/limits.md has these rows.
    fn problems(rows: &[&str]) -> Vec<String> {
        problems_with(rows, &[("src/log.rs", &["HEADER"])])
    }

    /// The same with these constants excused.
    fn problems_with(rows: &[&str], no_bounds: &[(&str, &[&str])]) -> Vec<String> {
        let lib = format!("{LIB} const PAUSE: Duration = Duration::from_millis(50);");
        let read = |path: &Path| match path.to_str()? {
            "/w/src/lib.rs" => Some(lib.clone()),
            "/w/src/log.rs" => Some(LOG.to_owned()),
            _ => None,
        };
        let names = Names::new(Path::new("/w/src/lib.rs"), &read);
        let list = format!("# Bounds\n\n{}\n{}\n", HEAD.join("\n"), rows.join("\n"));
        differences(&list, &constants(Path::new("/w"), &names), no_bounds)
    }

    #[test]
    fn a_list_that_is_true_has_no_differences() {
        assert_eq!(problems(&ROWS), [""; 0]);
        let more = [
            "| `SHARE` | 0.2 of a core | src/log.rs | may be listed |",
            "| `SAME` | 10050 ms | src/log.rs | may be listed |",
            "| `Queue::size` | 8 KiB | src/lib.rs | may be listed |",
        ];
        assert_eq!(problems(&[&ROWS[..], &more].concat()), [""; 0]);
    }

    #[test]
    fn a_value_or_a_unit_that_differs_is_told_with_its_line_and_what_it_is() {
        for (right, wrong, is) in [
            ("4 KiB", "4 kB", "`MAX_WORD` in src/lib.rs is 4 KiB, not 4 kB"),
            ("4 KiB", "4096 words", "`MAX_WORD` in src/lib.rs is 4 KiB, not 4096 words"),
            (
                "1 s to 2 min",
                "1 s to 1 min",
                "`Queue::LENGTHS` in src/lib.rs is 1 s to 120 s, not 1 s to 1 min",
            ),
            ("1 s to 2 min", "2 min", "`Queue::LENGTHS` in src/lib.rs is 1 s to 120 s, not 2 min"),
            ("5 s", "5", "`Log::STEP` in src/log.rs is 5 s, not 5"),
            ("10.05 s", "10 s", "`ALL` in src/log.rs is 10050 ms, not 10 s"),
            ("120 000", "120 00", "`LINES` in src/log.rs is 120000, not 120 00 lines"),
            ("-10 s", "10 s", "`SILENT` in src/log.rs is -10 s, not 10 s"),
        ] {
            let row = ROWS.iter().position(|row| row.contains(right)).unwrap();
            let mut rows = ROWS;
            let changed = rows[row].replace(right, wrong);
            rows[row] = &changed;
            assert_eq!(problems(&rows), [format!("docs/limits.md:{}: {is}", row + 5)]);
        }
    }

    #[test]
    fn a_bound_that_is_not_listed_is_told_as_the_row_it_lacks() {
        for (index, row) in ROWS.iter().enumerate() {
            let mut rows = ROWS.to_vec();
            rows.remove(index);
            let told = problems(&rows);
            let name = row.split(" | ").next().unwrap();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(&format!("docs/limits.md lacks {name} | ")), "{told:?}");
        }
    }

    #[test]
    fn what_bounds_nothing_needs_no_row_as_long_as_it_is_there() {
        assert_eq!(
            problems_with(&ROWS, &[]),
            ["docs/limits.md lacks | `HEADER` | 8 bytes | src/log.rs | why |"]
        );
        let excused: &[&str] = &["HEADER", "SILENT"];
        assert_eq!(
            problems_with(&ROWS, &[("src/log.rs", excused)]),
            ["`SILENT` of src/log.rs need not be in NO_BOUNDS"]
        );
    }

    #[test]
    fn a_row_too_many_or_one_that_is_none_is_told() {
        for (row, told) in [
            ("| `MAX_WORDS` | 1 | src/lib.rs | gone |", "there is no constant `MAX_WORDS` in src/lib.rs"),
            ("| `PAUSE` | 50 ms | src/log.rs | moved |", "there is no constant `PAUSE` in src/log.rs"),
            ("| `LIMIT` | 1 | src/lib.rs | of a test |", "there is no constant `LIMIT` in src/lib.rs"),
            ("| `PAUSE` | 50 ms | src/lib.rs | again |", "`PAUSE` of src/lib.rs is listed before"),
            (
                "| `NAME` | 5 | src/log.rs | a text |",
                "the value of `NAME` in src/log.rs is not understood by tests/sources",
            ),
            (
                "| PAUSE | 50 ms | src/lib.rs | plain |",
                "not a row such as | `MAX_LINES` | 5 000 | src/log.rs | why |",
            ),
            (
                "| `SAME` | 50 ms | src/log.rs | |",
                "not a row such as | `MAX_LINES` | 5 000 | src/log.rs | why |",
            ),
        ] {
            assert_eq!(
                problems(&[&ROWS[..], &[row]].concat()),
                [format!("docs/limits.md:12: {told}")],
                "{row}"
            );
        }
    }
}
