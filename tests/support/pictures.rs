//! Decoded pictures, as players list them: a time and a checksum for each. Compares them with what was published.

use std::collections::BTreeMap;

/// A picture that was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// When it is shown, µs.
    pub time: i64,
    /// MD5 of its planes, in hexadecimal.
    pub md5: String,
}

/// The pictures of what ffmpeg and mpv write as `framemd5`.
///
/// # Errors
/// The first line that is not of such a list.
pub fn parse_framemd5(list: &str) -> Result<Vec<Picture>, String> {
    // Numerator and denominator of each stream's time base.
    let mut bases = BTreeMap::new();
    let mut video = None;
    let mut pictures = Vec::new();
    for line in list.lines() {
        let wrong = || format!("no line of framemd5: {line:?}");
        if let Some(base) = line.strip_prefix("#tb ") {
            let (stream, base) = base.split_once(": ").ok_or_else(wrong)?;
            let (up, down) = base.split_once('/').ok_or_else(wrong)?;
            let parse = |number: &str| number.parse::<i64>().map_err(|_| wrong());
            bases.insert(stream, (parse(up)?, parse(down)?));
        } else if let Some(stream) = line.strip_prefix("#media_type ") {
            let (stream, kind) = stream.split_once(": ").ok_or_else(wrong)?;
            video = if kind == "video" { Some(stream) } else { video };
        } else if !line.starts_with('#') {
            let fields: Vec<_> = line.split(',').map(str::trim).collect();
            // What comes beside a packet, such as another header, has fields behind these.
            let [stream, _, time, _, _, md5, ..] = fields[..] else { return Err(wrong()) };
            if Some(stream) == video {
                let (up, down) = bases.get(stream).ok_or_else(wrong)?;
                let time = time.parse::<i64>().map_err(|_| wrong())? * up * 1_000_000 / down;
                pictures.push(Picture { time, md5: md5.to_owned() });
            }
        }
    }
    Ok(pictures)
}

/// Fails unless the player of `list`, as ffmpeg writes it with `framemd5`, had each picture of 25 a second.
#[track_caller]
pub fn assert_nothing_lost(list: &str) {
    // The last line may be cut.
    let whole = list.rsplit_once('\n').map_or(list, |(whole, _)| whole);
    let lines = whole.lines().filter_map(|line| line.strip_prefix("0,"));
    // In ms. Where the card begins anew, something about the codec follows.
    let times = lines.map(|line| line.split(',').next().unwrap().trim().parse::<i64>().unwrap());
    let times: Vec<_> = times.collect();
    assert!(times.len() > 60, "{} pictures", times.len());
    for pair in times.windows(2) {
        assert!((39..=41).contains(&(pair[1] - pair[0])), "{pair:?}");
    }
}

/// The picture of a line that GStreamer's `checksumsink` prints; `None` of any other.
pub fn parse_checksum(line: &str) -> Option<Picture> {
    let (time, md5) = line.split_once(' ')?;
    if md5.len() != 32 || !md5.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut fields = time.split([':', '.']).map(|field| field.parse::<i64>().ok());
    let mut field = || fields.next().flatten();
    let (hours, minutes, seconds, ns) = (field()?, field()?, field()?, field()?);
    Some(Picture {
        time: ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + ns / 1000,
        md5: md5.to_owned(),
    })
}

/// Compares what was shown with what is published again and again, each round `period` µs after the one before: each picture is the
/// source's, in order, none missing or repeated, at the source's distances.
///
/// # Errors
/// The first difference, for a person.
pub fn compare(shown: &[Picture], source: &[Picture], period: i64) -> Result<(), String> {
    let begin = shown.first().ok_or("no picture was shown")?;
    let place = |md5: &str| source.iter().position(|picture| picture.md5 == md5);
    let first = place(&begin.md5).ok_or("the first picture is none of the source's")?;
    for (number, picture) in shown.iter().enumerate() {
        let at = format!("picture {number} at {} ms", picture.time / 1000);
        let (round, expected) = ((first + number) / source.len(), (first + number) % source.len());
        if picture.md5 != source[expected].md5 {
            return Err(match place(&picture.md5) {
                Some(place) => format!("{at} is the source's {place}, not {expected}"),
                None => format!("{at} is none of the source's; it should be {expected}"),
            });
        }
        let time = begin.time + source[expected].time - source[first].time + round as i64 * period;
        if picture.time != time {
            return Err(format!("{at}: its time is off by {} µs", picture.time - time));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 50 pictures, 2 s.
    fn card() -> Vec<Picture> {
        (0..50).map(|n| Picture { time: n * 40_000, md5: format!("{n:032x}") }).collect()
    }

    /// From the 30th picture of the card on, over its end, from 1 s on.
    fn shown() -> Vec<Picture> {
        let time = |n: i64| 1_000_000 + n * 40_000;
        (0..90).map(|n| Picture { time: time(n), md5: format!("{:032x}", (n + 30) % 50) }).collect()
    }

    #[track_caller]
    fn differs(change: impl FnOnce(&mut Vec<Picture>), words: &str) {
        let mut shown = shown();
        change(&mut shown);
        let told = compare(&shown, &card(), 2_000_000).expect_err("the comparison must fail");
        assert!(told.contains(words), "{told}");
    }

    #[test]
    fn pictures_that_are_the_sources_are_equal_over_its_end() {
        compare(&shown(), &card(), 2_000_000).unwrap();
    }

    #[test]
    fn a_picture_that_is_missing_repeated_exchanged_damaged_or_late_is_found() {
        differs(|shown| drop(shown.remove(60)), "picture 60 at 3440 ms is the source's 41, not 40");
        differs(|shown| shown.insert(60, shown[59].clone()), "is the source's 39, not 40");
        differs(|shown| shown.swap(60, 61), "is the source's 41, not 40");
        differs(|shown| shown[60].md5 = "f".repeat(32), "is none of the source's; it should be 40");
        differs(|shown| shown[60].time += 1000, "its time is off by 1000 µs");
        differs(|shown| shown.truncate(0), "no picture");
    }

    #[test]
    fn the_lists_of_all_players_are_read() {
        let md5 = "7849dd625eaebddd169329df0c458875";
        let list = format!(
            "#format: frame checksums\n#tb 0: 1/48000\n#media_type 0: audio\n#tb 1: 1/24000\n#media_type 1: video\n\
             #stream#, dts, pts, duration, size, hash\n0, 0, 0, 1024, 2048, {md5}\n1, 960, 960, 1, 368640, {md5}\n"
        );
        let picture = Picture { time: 40_000, md5: md5.to_owned() };
        assert_eq!(parse_framemd5(&list), Ok(vec![picture]));
        assert!(parse_framemd5("0, 1, 2\n").is_err());
        let time = ((3600 + 2 * 60) + 3) * 1_000_000 + 40_000;
        assert_eq!(
            parse_checksum(&format!("1:02:03.040000000 {md5}")),
            Some(Picture { time, md5: md5.into() })
        );
        for other in ["WARNING: from element /GstPipeline", "0:00:01.000000000 7849", "", md5] {
            assert_eq!(parse_checksum(other), None);
        }
    }
}
