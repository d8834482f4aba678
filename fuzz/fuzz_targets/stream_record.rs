#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stream::fuzz::stream_record(data));
