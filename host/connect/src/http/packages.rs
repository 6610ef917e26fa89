//! Messages that wait to be posted, and which go into one request.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// A request is not made longer by another message when it is this long, in bytes.
const PACKAGE_BYTES: usize = 1 << 20;
/// How much may wait behind the others to be posted again, in bytes, and a request more.
const BEHIND_BYTES_MAX: usize = 4 << 20;
/// What a message takes up beside its bytes, about.
const MESSAGE_BYTES: usize = 128;

/// Whether a message that is to be posted again holds up those behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PostingOrder {
    /// It does: messages are taken in the order in which they leave the pipeline.
    #[default]
    Keep,
    /// It doesn't: it is posted again behind the others, and requests may overtake each other.
    Any,
}

/// What a request's body is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchForm {
    /// One message.
    #[default]
    One,
    /// A JSON array of messages.
    Array,
    /// Messages, one a line.
    Ndjson,
}

impl BatchForm {
    /// The body's content type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::One | Self::Array => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// A message to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Which it is of those that were written since the flush before.
    pub nth: usize,
    pub value: Vec<u8>,
    pub key: Option<Vec<u8>>,
    /// Its output id.
    pub id: Option<Vec<u8>>,
    /// How often it was posted.
    pub attempts: u32,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let parts = [self.key.as_ref(), self.id.as_ref()].into_iter().flatten().map(Vec::len);
        self.value.len() + parts.sum::<usize>() + MESSAGE_BYTES
    }
}

/// The messages of one request, in order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package(pub Vec<Waiting>);

impl Package {
    /// The body.
    pub fn body(&self, form: BatchForm) -> Vec<u8> {
        let values = self.0.iter().map(|m| m.value.as_slice());
        match form {
            BatchForm::One => values.collect::<Vec<_>>().concat(),
            BatchForm::Array => [b"[".as_slice(), &values.collect::<Vec<_>>().join(&b","[..]), b"]"].concat(),
            BatchForm::Ndjson => values.flat_map(|v| [v, b"\n"]).collect::<Vec<_>>().concat(),
        }
    }

    /// What a receiver may know a repeat by: the message's output id, or a hash of all of them in order. Text that
    /// a header can have.
    pub fn idempotency_key(&self) -> Option<Vec<u8>> {
        if let [message] = self.0.as_slice() {
            let id = message.id.as_ref()?;
            let is_plain = id.len() <= 255 && id.iter().all(u8::is_ascii_graphic);
            return Some(if is_plain { id.clone() } else { hash([id.as_slice()]) });
        }
        let ids: Option<Vec<&[u8]>> = self.0.iter().map(|m| m.id.as_deref()).collect();
        Some(hash(ids?))
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Waiting::bytes).sum()
    }

    /// It was answered that it should come again; says how often that was, at least.
    pub fn tried(&mut self) -> u32 {
        for message in &mut self.0 {
            message.attempts = message.attempts.saturating_add(1);
        }
        self.0.iter().map(|m| m.attempts).min().unwrap_or_default()
    }

    /// Two packages, each of half of the messages; none of one message.
    pub fn halves(mut self) -> Result<(Self, Self), Self> {
        if self.0.len() < 2 {
            return Err(self);
        }
        let second = self.0.split_off(self.0.len() / 2);
        Ok((self, Self(second)))
    }
}

fn hash<'a>(ids: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut hash = Xxh3::new();
    for id in ids {
        hash.update(id);
        hash.update(b"\n");
    }
    format!("{:032x}", hash.digest128()).into_bytes()
}

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Waiting>,
    bytes: usize,
    /// To be posted before the others: what was not taken yet, and the halves of what was refused.
    again: VecDeque<Package>,
    /// To be posted behind the others: what was not taken yet, where no order is kept.
    behind: VecDeque<Package>,
    behind_bytes: usize,
}

impl Queue {
    /// How much waits, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, message: Waiting) {
        self.bytes += message.bytes();
        self.messages.push_back(message);
    }

    /// Puts a package before all that were not posted yet, in the order of the messages.
    pub fn put_back(&mut self, package: Package) {
        let first = |p: &Package| p.0.first().map(|m| m.nth);
        let at = self.again.partition_point(|other| first(other) < first(&package));
        self.again.insert(at, package);
    }

    /// Puts a package behind all the others.
    pub fn put_behind(&mut self, package: Package) {
        self.behind_bytes += package.bytes();
        self.behind.push_back(package);
    }

    fn next_behind(&mut self) -> Option<Package> {
        let package = self.behind.pop_front()?;
        self.behind_bytes -= package.bytes();
        Some(package)
    }

    /// The next package, of at most so many messages; where not `all`, a whole one or none.
    pub fn next(&mut self, messages_max: usize, all: bool) -> Option<Package> {
        if let Some(package) = self.again.pop_front() {
            return Some(package);
        }
        // They wait no longer than there is room for more of them.
        if self.behind_bytes > BEHIND_BYTES_MAX {
            return self.next_behind();
        }
        self.next_new(messages_max, all).or_else(|| self.next_behind())
    }

    fn next_new(&mut self, messages_max: usize, all: bool) -> Option<Package> {
        let mut bytes = 0;
        let fit = |m: &Waiting| {
            let fits = bytes < PACKAGE_BYTES;
            bytes += m.bytes();
            fits
        };
        let count = self.messages.iter().take(messages_max).map(fit).take_while(|fits| *fits).count();
        let is_whole = count == messages_max || count < self.messages.len();
        if count == 0 || !(all || is_whole) {
            return None;
        }
        let messages: Vec<Waiting> = self.messages.drain(..count).collect();
        self.bytes -= messages.iter().map(Waiting::bytes).sum::<usize>();
        Some(Package(messages))
    }
}
