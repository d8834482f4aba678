//! Events as a person and a program read them.

use std::fmt::Write as _;

use cluster::Role;
use cluster::events::{Event, Kind};
use serde::Serialize;

use crate::people::{user_name, who};
use crate::table::{Cell, Column, Look, Paper, Table};

/// An event in the document of `events --json`, beside what its unit is.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    event: Event,
    role: Option<Role>,
    host: Option<String>,
    port: Option<u16>,
}

impl From<Event> for Row {
    fn from(event: Event) -> Self {
        let parts = event.what.unit.as_ref().map(|unit| unit.parts());
        let host = parts.map(|(_, host, _)| host.to_owned());
        let (role, port) = (parts.map(|(role, _, _)| role), parts.map(|(_, _, port)| port));
        Self { event, role, host, port }
    }
}

/// Tables one below the other: the first has titles, and none is narrower than the one before.
#[derive(Debug, Default)]
pub(super) struct Shown {
    widths: Option<[usize; 6]>,
}

impl Shown {
    /// The next lines.
    pub(super) fn table(&mut self, events: Vec<Event>) -> String {
        self.on(events, Paper::stdout(), user_name)
    }

    fn on(&mut self, events: Vec<Event>, paper: Paper, user: impl Fn(u32) -> String) -> String {
        let mut table = Table::new([
            Column::Left("TIME"),
            Column::Left("HOST"),
            Column::Left("ROLE"),
            Column::Right("PORT"),
            Column::Left("EVENT"),
            Column::Open("WHAT"),
        ]);
        for Event { at, what, .. } in events {
            let parts = what.unit.as_ref().map(|unit| unit.parts());
            let (host, role, port) = match parts {
                Some((Role::Encoder, _, _)) => ("-".to_owned(), Role::Encoder.as_str(), "-".to_owned()),
                Some((role, host, port)) => (host.to_owned(), role.as_str(), port.to_string()),
                None => ("-".to_owned(), "supervisor", "-".to_owned()),
            };
            let mut text = what.text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
            if let Some(pid) = what.pid {
                let _ = write!(text, "{}pid {pid}", if text.is_empty() { "" } else { "; " });
            }
            if let Some(by) = what.by {
                let _ = write!(text, ", asked by {}", who(by, &user));
            }
            table.row([
                at.into(),
                host.into(),
                role.into(),
                port.into(),
                Cell::new(what.kind.as_str(), look(what.kind)),
                text.into(),
            ]);
        }
        let (widths, is_first) = (self.widths.unwrap_or_default(), self.widths.is_none());
        let (text, widths) = table.below(paper, widths, is_first);
        self.widths = Some(widths);
        text
    }
}

fn look(kind: Kind) -> Look {
    match kind {
        Kind::ColdStart
        | Kind::Frozen
        | Kind::Died
        | Kind::NotStarted
        | Kind::GaveUp
        | Kind::LeftAlone
        | Kind::Critical
        | Kind::Failed => Look::Wrong,
        Kind::Resumed
        | Kind::WentBack
        | Kind::Woken
        | Kind::Warning
        | Kind::TakenBack
        | Kind::Drained
        | Kind::NotConfigured => Look::Warning,
        Kind::SupervisorStarted
        | Kind::SupervisorEnded
        | Kind::Asked
        | Kind::Done
        | Kind::Program
        | Kind::Added
        | Kind::Draining
        | Kind::Kept
        | Kind::Removed
        | Kind::Configured
        | Kind::Started
        | Kind::Ready
        | Kind::Adopted
        | Kind::Renewed
        | Kind::Stopped
        | Kind::Passing
        | Kind::Unknown => Look::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::UnitId;
    use cluster::events::{By, Happening};
    use snapbox::str;

    fn event(number: u64, kind: Kind, unit: Option<UnitId>, text: &str) -> Event {
        let at = format!("2026-11-28T13:29:1{number}.123Z");
        Event { number, at, what: Happening { kind, unit, pid: None, by: None, text: text.to_owned() } }
    }

    fn edge(host: &str) -> Option<UnitId> {
        Some(UnitId::worker(Role::Edge, host, 1936))
    }

    #[test]
    fn each_event_is_a_line_and_what_is_said_of_it_is_whole() {
        let mut asked = event(1, Kind::Asked, None, "restart edge 1936 --cold");
        asked.what.by = Some(By { pid: 4711, uid: 0, login_uid: Some(1000) });
        let mut started = event(3, Kind::Started, edge("127.0.0.6"), "");
        started.what.pid = Some(99);
        let long = "killed by SIGKILL that somebody sent: the last word of it was \u{1b}[2Jthat it has no more words; starts again in 0.2 s";
        let first = vec![asked, event(2, Kind::Died, edge("127.0.0.6"), long), started];
        let next = vec![
            event(4, Kind::ColdStart, edge("a-host-whose-name-is-longer-than-a-cell"), "exit 70"),
            event(5, Kind::Stopped, Some(UnitId::encoder()), ""),
        ];
        let user = |uid: u32| if uid == 0 { "root".to_owned() } else { "anna".to_owned() };
        let mut shown = Shown::default();
        snapbox::assert_data_eq!(
            shown.on(first, Paper::PLAIN, user),
            str![[r#"
TIME                     HOST      ROLE       PORT EVENT   WHAT
2026-11-28T13:29:11.123Z -         supervisor    - asked   restart edge 1936 --cold, asked by root (pid 4711, logged in as anna)
2026-11-28T13:29:12.123Z 127.0.0.6 edge       1936 died    killed by SIGKILL that somebody sent: the last word of it was �[2Jthat it has no more words; starts again in 0.2 s
2026-11-28T13:29:13.123Z 127.0.0.6 edge       1936 started pid 99

"#]]
        );
        snapbox::assert_data_eq!(
            shown.on(next, Paper::PLAIN, user),
            str![[r#"
2026-11-28T13:29:14.123Z a-host-whose-nam…-a-cell edge       1936 cold-start exit 70
2026-11-28T13:29:15.123Z -                        encoder       - stopped

"#]]
        );
    }

    #[test]
    fn kinds_are_called_in_tables_as_they_are_in_documents() {
        for kind in [Kind::SupervisorStarted, Kind::ColdStart, Kind::WentBack, Kind::NotStarted, Kind::Died] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn a_document_has_role_host_and_port_of_each_unit() {
        let row = serde_json::to_value(Row::from(event(1, Kind::Died, edge("127.0.0.6"), "exit 1"))).unwrap();
        let expected = serde_json::json!({
            "number": 1, "at": "2026-11-28T13:29:11.123Z", "event": "died", "unit": "edge-127.0.0.6-1936",
            "pid": null, "by": null, "text": "exit 1", "role": "edge", "host": "127.0.0.6", "port": 1936,
        });
        assert_eq!(row, expected);
    }
}
