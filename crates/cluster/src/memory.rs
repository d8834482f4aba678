//! The memory that a port may use: as people write it, and what the machine has.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The memory of one port: logs, and what its connections make it hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Memory {
    /// A share of what the machine has; so many ports share it. Written `auto`, or `auto/5` in the config of one of 5.
    Auto(u32),
    /// So many MiB; written `512MiB` or `2GiB`.
    Fixed(u32),
}

impl Memory {
    /// The part of the machine that all ports together take with `auto`, one so-manieth: half is left to sockets, to the page cache and to
    /// others, and half of the rest to ports that are added.
    pub const AUTO_PART: u64 = 4;
    /// The most that `auto` gives to one port, MiB: 64 streams of 4 Mbit/s with 30 s of each.
    pub const AUTO_MAX: u64 = 1_024;
    /// The least that a port works with, MiB; `auto` gives no less.
    pub const LEAST: u32 = 64;
    /// The most that may be set, MiB: 1 TiB.
    pub const MOST: u32 = 1_048_576;
    /// What one stream needs at least, MiB: a group of pictures of 4 Mbit/s.
    pub const OF_A_STREAM: u64 = 1;

    /// Bytes, on a machine that has so many for this process.
    #[must_use]
    pub fn bytes(self, machine: u64) -> u64 {
        match self {
            Self::Auto(ports) => {
                let share = machine / Self::AUTO_PART / u64::from(ports.max(1));
                share.clamp(u64::from(Self::LEAST) << 20, Self::AUTO_MAX << 20)
            }
            Self::Fixed(mib) => u64::from(mib) << 20,
        }
    }
}

/// Not a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an amount of memory such as auto, 512MiB or 2GiB")]
pub struct MemoryError;

impl FromStr for Memory {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let number = |digits: &str| {
            let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u32>().ok().filter(|_| is_plain).ok_or(MemoryError)
        };
        if text == "auto" {
            return Ok(Self::Auto(1));
        }
        if let Some(ports) = text.strip_prefix("auto/") {
            return number(ports).map(Self::Auto);
        }
        let (digits, unit) = match text.strip_suffix("MiB") {
            Some(digits) => (digits, 1),
            None => (text.strip_suffix("GiB").ok_or(MemoryError)?, 1_024),
        };
        let mib = number(digits)?.checked_mul(unit).ok_or(MemoryError)?;
        if (Self::LEAST..=Self::MOST).contains(&mib) { Ok(Self::Fixed(mib)) } else { Err(MemoryError) }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto(1) => f.write_str("auto"),
            Self::Auto(ports) => write!(f, "auto/{ports}"),
            Self::Fixed(mib) if mib.is_multiple_of(1_024) => write!(f, "{}GiB", mib / 1_024),
            Self::Fixed(mib) => write!(f, "{mib}MiB"),
        }
    }
}

impl TryFrom<String> for Memory {
    type Error = MemoryError;

    fn try_from(text: String) -> Result<Self, MemoryError> {
        text.parse()
    }
}

impl From<Memory> for String {
    fn from(memory: Memory) -> Self {
        memory.to_string()
    }
}

/// Bytes that this process and its like may use: what the machine has, or the limit of a control group that it is in (`memory.max`,
/// `memory.limit_in_bytes`) where that is lower. `u64::MAX` when the system says nothing.
#[must_use]
pub fn of_machine() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let physical = read(Path::new("/proc/meminfo")).and_then(|text| total(&text)).unwrap_or(u64::MAX);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| group_limits(line, read));
    limits.fold(physical, u64::min)
}

fn total(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1_024))
}

/// The limits of the group of one line of /proc/self/cgroup (cgroups(7)) and of those above it.
fn group_limits(line: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (root, file) = match controllers {
        "" => (Path::new("/sys/fs/cgroup"), "memory.max"),
        "memory" => (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let names = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let mut group = root.join(names.collect::<std::path::PathBuf>());
    let mut limits = Vec::new();
    loop {
        // "max" is no number.
        limits.extend(read(&group.join(file)).and_then(|text| text.trim().parse::<u64>().ok()));
        if group == root || !group.pop() {
            return limits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_is_read_as_it_is_written() {
        for text in ["auto", "auto/5", "64MiB", "1025MiB", "2GiB", "1024GiB"] {
            assert_eq!(text.parse::<Memory>().unwrap().to_string(), text);
        }
        assert_eq!("2048MiB".parse::<Memory>().unwrap().to_string(), "2GiB");
        for text in
            ["", "512", "63MiB", "1025GiB", "1 GiB", "+1GiB", "512MB", "auto/", "auto/x", "0MiB", "MiB"]
        {
            assert_eq!(text.parse::<Memory>(), Err(MemoryError), "{text}");
        }
    }

    #[test]
    fn ports_share_a_part_of_the_machine() {
        let gib = 1_024 * MIB;
        assert_eq!(Memory::Auto(5).bytes(8 * gib), 8 * gib / 4 / 5);
        assert_eq!(Memory::Auto(1).bytes(64 * gib), gib, "the most");
        assert_eq!(Memory::Auto(256).bytes(gib), 64 * MIB, "the least");
        assert_eq!(Memory::Fixed(300).bytes(gib), 300 * MIB);
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_counts() {
        let read = |path: &Path| match path.to_str().unwrap() {
            "/sys/fs/cgroup/a.slice/b.service/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a.slice/memory.max" => Some("1000\n".to_owned()),
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => Some("500\n".to_owned()),
            _ => None,
        };
        assert_eq!(group_limits("0::/a.slice/b.service", read), [1_000]);
        assert_eq!(group_limits("9:memory:/x", read), [500]);
        assert_eq!(group_limits("4:cpu,cpuacct:/x", read), []);
        assert_eq!(group_limits("nonsense", read), []);
        assert_eq!(group_limits("0::/../..", read), []);
        assert_eq!(total("MemTotal:       24000000 kB\nMemFree: 1 kB\n"), Some(24_576_000_000));
    }
}
