#!/usr/bin/env bash
# Makes test-card.flv: what `srsctl publish --test-card` and `encoder: { source: test-card }` send.
#
# Needs, on Debian 12 or later: apt-get install ffmpeg fonts-dejavu-core
#
# 768x320, 25 frames/s, H.264 without B-frames, a closed GOP of 2 s, and AAC mono: together about 220 kbit/s, the
# guide's source. It lasts 16 s because that is a whole number of GOPs (8), of AAC frames of 1024 samples (750) and of
# periods of the tone, so it can be sent again and again without a jump in the picture's rhythm, the clock or the sound.
set -euo pipefail
cd "$(dirname "$0")"

seconds=16
fps=25
font=/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf
[ -r "$font" ] || { echo "make-test-card: $font is missing: apt-get install fonts-dejavu-core" >&2; exit 1; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
quiet=(-hide_banner -loglevel error -nostdin -y)
# No version strings, and one thread below: the same ffmpeg makes the same file.
exact=(-fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1)

# A moving pattern; on it a clock with the frame in the second, a block that swings once a second, a bar that fills in one loop.
ffmpeg "${quiet[@]}" \
  -f lavfi -i "testsrc2=size=768x320:rate=$fps:duration=$seconds" \
  -f lavfi -i "color=white@1:size=48x14:rate=$fps:duration=$seconds" \
  -f lavfi -i "color=0x30c060:size=768x10:rate=$fps:duration=$seconds" \
  -filter_complex "
    [0:v]drawbox=x=184:y=84:w=400:h=136:color=black:t=fill,
         drawtext=fontfile=$font:text='srsctl test card':fontsize=24:fontcolor=0xd0d0d0:x=(w-tw)/2:y=98,
         drawtext=fontfile=$font:text='%{eif\:trunc(t)\:d\:2}.%{eif\:mod(n\,$fps)\:d\:2}':fontsize=56:fontcolor=white:x=(w-tw)/2:y=134[card];
    [card][1:v]overlay=x='184+(400-48)*(0.5-0.5*cos(2*PI*t))':y=196[swing];
    [swing][2:v]overlay=x='-768+768*(n+1)/($seconds*$fps)':y=310[out]" \
  -map '[out]' -frames:v $((seconds * fps)) -pix_fmt yuv420p \
  -c:v libx264 -threads 1 -preset veryslow -profile:v main -bf 0 -g $((2 * fps)) -keyint_min $((2 * fps)) -sc_threshold 0 \
  -x264-params "open-gop=0:nal-hrd=none:force-cfr=1" -b:v 184k -maxrate 240k -bufsize 480k \
  "${exact[@]}" "$tmp/video.mp4"

# The encoder starts with a frame of priming; what is taken from the middle of a longer tone has none.
ffmpeg "${quiet[@]}" -f lavfi -i "sine=frequency=440:beep_factor=2:sample_rate=48000:duration=$((seconds + 8))" \
  -c:a aac -b:a 36k -ac 1 "${exact[@]}" "$tmp/tone.mp4"

ffmpeg "${quiet[@]}" -i "$tmp/video.mp4" -ss 3.2 -i "$tmp/tone.mp4" -map 0:v -map 1:a -t $seconds -c copy \
  -avoid_negative_ts disabled -flvflags no_sequence_end "${exact[@]}" -f flv "$tmp/test-card.flv"

mv "$tmp/test-card.flv" test-card.flv
ls -l test-card.flv
