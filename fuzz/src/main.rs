//! One program for all targets: `WASMILL_TARGET` is what is fuzzed and its settings, as fuzz/targets.txt has them.
//!
//! Nothing may panic, overflow, hang or take memory without bound, whatever bytes come from outside.
#![no_main]

mod answers;
mod bytes;
mod codec;
// The sandbox's own, without the compiler that its crate brings along.
#[path = "../../host/plugin/src/outline.rs"]
mod outline;
#[path = "../../host/wasmill/src/schema/fits.rs"]
mod schema;
#[path = "../../host/plugin/src/text.rs"]
mod text;

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};

/// What is fuzzed.
enum Target {
    /// A codec.
    Codec(codec::Codec),
    /// Answers of a plugin.
    Answers(answers::Called),
    /// Bytes that the host reads.
    Bytes(bytes::Read),
}

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let asked = std::env::var("WASMILL_TARGET").expect("WASMILL_TARGET says what is fuzzed");
    match asked.split_once(' ') {
        Some(("codec", spec)) => Target::Codec(codec::Codec::new(spec)),
        Some(("answers", call)) => Target::Answers(answers::Called::of(call).expect("a call of a plugin")),
        Some(("bytes", what)) => Target::Bytes(bytes::Read::of(what).expect("something that is read")),
        _ => panic!("{asked}: codec, answers or bytes, and what of it"),
    }
});

fuzz_target!(|data: &[u8]| -> Corpus {
    match &*TARGET {
        Target::Codec(codec) => codec.try_bytes(data),
        Target::Answers(called) => called.try_bytes(data),
        Target::Bytes(read) => read.try_bytes(data),
    }
});
