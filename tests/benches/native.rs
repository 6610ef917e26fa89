//! The same jobs as plain Rust over owned messages: what a host without plugins would do.

use serde_json::Value;

/// A message as a host without frames would have it.
#[derive(Debug, Clone)]
pub struct Owned {
    pub id: String,
    pub kind: String,
    pub key: Option<String>,
    pub payload: String,
    pub timestamp: i64,
    pub metadata: Vec<(String, String)>,
}

/// tests/programs/seed-job: drops type `ignore`, else adds one metadata entry. Outputs are new messages.
pub fn seed_job(messages: &[Owned]) -> Vec<Owned> {
    let mut out = Vec::with_capacity(messages.len());
    for message in messages {
        if message.kind == "ignore" {
            continue;
        }
        let mut changed = message.clone();
        changed.metadata.push(("processed".to_owned(), "true".to_owned()));
        out.push(changed);
    }
    out
}

/// The same where the host may give its messages away, so that nothing is copied.
pub fn seed_job_in_place(messages: Vec<Owned>) -> Vec<Owned> {
    let mut kept: Vec<Owned> = messages.into_iter().filter(|message| message.kind != "ignore").collect();
    for message in &mut kept {
        message.metadata.push(("processed".to_owned(), "true".to_owned()));
    }
    kept
}

/// tests/programs/json-job, its work alone: parses the payload and writes it again.
pub fn json_job(messages: &[Owned]) -> Vec<String> {
    let again = |m: &Owned| {
        serde_json::from_str::<Value>(&m.payload).ok().and_then(|value| serde_json::to_string(&value).ok())
    };
    messages.iter().filter_map(again).collect()
}
