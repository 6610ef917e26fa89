//! Small components, written as text, and a frame to call them with.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

pub mod pieces;

pub use pieces::*;
use wasmill_engine::guest::{CallContext, MessageFacts};
use wasmill_frame::{FrameBuf, Parts, TIMESTAMP_NONE};
use wasmill_plugin::{Limits, Sandbox, SandboxOptions};

/// A sandbox with limits so small that hostile guests meet them at once.
pub fn small_sandbox() -> Sandbox {
    sandbox(small_limits())
}

pub fn sandbox(limits: Limits) -> Sandbox {
    Sandbox::new(SandboxOptions { limits, ..SandboxOptions::default() }).expect("sandbox")
}

pub fn small_limits() -> Limits {
    Limits {
        deadline_ms: 50,
        fuel: 1_000_000,
        memory_bytes_max: 4 << 20,
        answer_bytes_max: 64 << 10,
        host_calls_max: 1_000,
        state_bytes_max: 4 << 10,
        instances_max: 16,
        ..Limits::default()
    }
}

/// A frame of `messages` messages with payloads of `payload_bytes`.
pub fn frame(messages: usize, payload_bytes: usize) -> FrameBuf {
    let mut frame = FrameBuf::with_capacity(messages, messages * (payload_bytes + 16));
    let payload = vec![b'x'; payload_bytes];
    for i in 0..messages {
        frame.push(&Parts {
            id: &format!("m{i}"),
            kind: "test",
            key: None,
            payload: &payload,
            timestamp: TIMESTAMP_NONE,
            metadata: b"",
            payload_is_json: false,
        });
    }
    frame
}

/// A context with facts for `messages` messages: times 1000, 1001, …, seeds 1, 2, ….
pub fn facts(messages: usize) -> CallContext {
    let facts = (0..messages).map(|i| MessageFacts { time: 1_000 + i as i64, seed: 1 + i as u64 });
    CallContext { facts: facts.collect(), state: None }
}
