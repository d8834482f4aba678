#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| worker::fuzz::port_records(data));
