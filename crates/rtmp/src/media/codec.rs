//! Names of codecs, from the numbers of FLV and the FourCC codes of Enhanced RTMP.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// A codec; shown by its common short name (`h264`, `aac`), else by its FourCC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Codec(Name);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Name {
    H263,
    Screen,
    Vp6,
    Vp6a,
    Screen2,
    H264,
    Hevc,
    Vvc,
    Av1,
    Vp8,
    Vp9,
    Pcm,
    Adpcm,
    Mp3,
    Nellymoser,
    G711a,
    G711u,
    Aac,
    Speex,
    Opus,
    Flac,
    Ac3,
    Eac3,
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
        Some(Self(match id {
            2 => Name::H263,
            3 => Name::Screen,
            4 => Name::Vp6,
            5 => Name::Vp6a,
            6 => Name::Screen2,
            7 => Name::H264,
            12 => Name::Hevc,
            13 => Name::Av1,
            _ => return None,
        }))
    }

    /// SoundFormat of a legacy audio tag (FLV 10.1, E.4.2.1).
    pub(super) fn audio(format: u8) -> Option<Self> {
        Some(Self(match format {
            0 | 3 => Name::Pcm,
            1 => Name::Adpcm,
            2 | 14 => Name::Mp3,
            4..=6 => Name::Nellymoser,
            7 => Name::G711a,
            8 => Name::G711u,
            10 => Name::Aac,
            11 => Name::Speex,
            _ => return None,
        }))
    }

    /// FourCC of Enhanced RTMP.
    pub(super) fn four_cc(code: [u8; 4]) -> Self {
        Self(match &code {
            b"avc1" => Name::H264,
            b"hvc1" => Name::Hevc,
            b"vvc1" => Name::Vvc,
            b"av01" => Name::Av1,
            b"vp08" => Name::Vp8,
            b"vp09" => Name::Vp9,
            b"mp4a" => Name::Aac,
            b".mp3" => Name::Mp3,
            b"Opus" => Name::Opus,
            b"fLaC" => Name::Flac,
            b"ac-3" => Name::Ac3,
            b"ec-3" => Name::Eac3,
            _ => Name::FourCc(code),
        })
    }

    pub(super) fn coding(self) -> Option<Coding> {
        match self.0 {
            Name::H264 => Some(Coding::Avc),
            Name::Hevc => Some(Coding::Hevc),
            Name::Vvc => Some(Coding::Vvc),
            Name::Av1 => Some(Coding::Av1),
            Name::Vp8 => Some(Coding::Vp8),
            Name::Vp9 => Some(Coding::Vp9),
            _ => None,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Name::H263 => "h263",
            Name::Screen => "screen",
            Name::Vp6 => "vp6",
            Name::Vp6a => "vp6a",
            Name::Screen2 => "screen2",
            Name::H264 => "h264",
            Name::Hevc => "hevc",
            Name::Vvc => "vvc",
            Name::Av1 => "av1",
            Name::Vp8 => "vp8",
            Name::Vp9 => "vp9",
            Name::Pcm => "pcm",
            Name::Adpcm => "adpcm",
            Name::Mp3 => "mp3",
            Name::Nellymoser => "nellymoser",
            Name::G711a => "g711a",
            Name::G711u => "g711u",
            Name::Aac => "aac",
            Name::Speex => "speex",
            Name::Opus => "opus",
            Name::Flac => "flac",
            Name::Ac3 => "ac3",
            Name::Eac3 => "eac3",
            // A peer chose these bytes; a terminal will show them.
            Name::FourCc(code) => {
                return code
                    .iter()
                    .try_for_each(|&b| f.write_char(if b.is_ascii_graphic() { b.into() } else { '.' }));
            }
        })
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
