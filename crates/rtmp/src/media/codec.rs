//! Names of codecs, from the numbers of FLV and the FourCC codes of Enhanced RTMP.

use std::fmt::{self, Write};

/// A codec; shown by its common short name (`h264`, `aac`), else by its FourCC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Codec(Name);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Known(&'static str),
    FourCc([u8; 4]),
}

/// How the pictures of a codec are coded, where their own bytes tell a keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Avc,
    Hevc,
    Vvc,
    Av1,
    Vp8,
    Vp9,
}

impl Codec {
    /// CodecID of a legacy video tag (FLV 10.1, E.4.3.1), with the two ids in common use beside the standard.
    pub(super) fn video(id: u8) -> Option<Self> {
        Self::known(match id {
            2 => "h263",
            3 => "screen",
            4 => "vp6",
            5 => "vp6a",
            6 => "screen2",
            7 => "h264",
            12 => "hevc",
            13 => "av1",
            _ => return None,
        })
    }

    /// SoundFormat of a legacy audio tag (FLV 10.1, E.4.2.1).
    pub(super) fn audio(format: u8) -> Option<Self> {
        Self::known(match format {
            0 | 3 => "pcm",
            1 => "adpcm",
            2 | 14 => "mp3",
            4..=6 => "nellymoser",
            7 => "g711a",
            8 => "g711u",
            10 => "aac",
            11 => "speex",
            _ => return None,
        })
    }

    /// FourCC of Enhanced RTMP.
    pub(super) fn four_cc(code: [u8; 4]) -> Self {
        Self(match &code {
            b"avc1" => Name::Known("h264"),
            b"hvc1" => Name::Known("hevc"),
            b"vvc1" => Name::Known("vvc"),
            b"av01" => Name::Known("av1"),
            b"vp08" => Name::Known("vp8"),
            b"vp09" => Name::Known("vp9"),
            b"mp4a" => Name::Known("aac"),
            b".mp3" => Name::Known("mp3"),
            b"Opus" => Name::Known("opus"),
            b"fLaC" => Name::Known("flac"),
            b"ac-3" => Name::Known("ac3"),
            b"ec-3" => Name::Known("eac3"),
            _ => Name::FourCc(code),
        })
    }

    pub(super) fn coding(self) -> Option<Coding> {
        let Name::Known(name) = self.0 else { return None };
        match name {
            "h264" => Some(Coding::Avc),
            "hevc" => Some(Coding::Hevc),
            "vvc" => Some(Coding::Vvc),
            "av1" => Some(Coding::Av1),
            "vp8" => Some(Coding::Vp8),
            "vp9" => Some(Coding::Vp9),
            _ => None,
        }
    }

    fn known(name: &'static str) -> Option<Self> {
        Some(Self(Name::Known(name)))
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Name::Known(name) => f.write_str(name),
            // A peer chose these bytes; a terminal will show them.
            Name::FourCc(code) => {
                code.iter().try_for_each(|&b| f.write_char(if b.is_ascii_graphic() { b.into() } else { '.' }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_is_shown_by_its_short_name_or_a_printable_fourcc() {
        assert_eq!(Codec::video(7).unwrap().to_string(), "h264");
        assert_eq!(Codec::audio(10).unwrap().to_string(), "aac");
        assert_eq!(Codec::four_cc(*b"hvc1").to_string(), "hevc");
        assert_eq!(Codec::four_cc(*b"xyz9").to_string(), "xyz9");
        assert_eq!(Codec::four_cc(*b"a\x1b[0").to_string(), "a.[0");
        assert_eq!(Codec::video(15), None);
    }
}
