//! What the engine asks of a plugin, whatever runs it.
//!
//! The engine speaks in the layouts of `wasmill-frame` and checks every byte that comes back; it
//! knows nothing of WebAssembly. `host/plugin` implements [`Guest`] over wasmtime; tests implement
//! it with plain functions.

use std::sync::Arc;

/// One call's facts about messages, and the state that it may touch. It moves into the call and
/// back out, so that a guest's store never borrows from the engine.
#[derive(Default)]
pub struct CallContext {
    /// For each message of the frame, what time and chance answer; empty where the plugin imports neither.
    pub facts: Vec<MessageFacts>,
    /// State of the messages' keys; none where the stage has none.
    pub state: Option<Box<dyn KeyedState>>,
}

/// What a plugin may learn of one message beyond its fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageFacts {
    /// Its event time, or the broker's, in milliseconds.
    pub time: i64,
    /// The seed of its random numbers: a pure function of its position.
    pub seed: u64,
}

/// The keyed state of a stage during one call. Every call names a message by its index in the frame:
/// the entry belongs to that message's key.
pub trait KeyedState: Send {
    /// The bytes of the key under which an entry is stored: with the message's own key, each entry has it anew.
    fn stored_bytes(&self, _index: u32, name: &str) -> usize {
        name.len()
    }
    /// The value of an entry.
    ///
    /// # Errors
    /// A text for the author when the index is out of the frame, the entry's stored key too long, or the store fails.
    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String>;
    /// Sets (`Some`) or deletes (`None`) an entry, staged until the epoch commits; `ttl_ms` is how
    /// long it lives, in event time from that message on.
    ///
    /// # Errors
    /// As [`KeyedState::get`].
    fn set(
        &mut self,
        index: u32,
        name: &str,
        value: Option<&[u8]>,
        ttl_ms: Option<u64>,
    ) -> Result<(), String>;
}

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// A batch in production: bounded by deadline ticks. What fails here convicts nobody.
    Batch,
    /// One message alone, on a fresh instance, under fuel and memory limits: a verdict that a replay
    /// repeats.
    Verdict,
}

/// Why a call gave no answer. The instance is gone by the time the engine sees this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest trapped or panicked; the text has the panic's message with file and line where known.
    #[error("trapped: {0}")]
    Trap(String),
    /// It took too long; says nothing about the guest, for that depends on the machine's load.
    #[error("{what} of {limit_ms} ms: {setting}")]
    Deadline {
        /// Which time it was.
        what: &'static str,
        /// The limit.
        limit_ms: u64,
        /// Where the limit is set.
        setting: &'static str,
    },
    /// It used up its fuel.
    #[error("used up its fuel of {limit}: `limits.fuel`")]
    Fuel {
        /// The limit.
        limit: u64,
    },
    /// It asked for more memory than its limit.
    #[error("asked for more than its {limit_bytes} bytes of memory: `limits.memory`")]
    Memory {
        /// The limit.
        limit_bytes: usize,
    },
    /// It answered with more bytes than its limit, or with bytes that are not the layout.
    #[error("answered wrongly: {0}")]
    Answer(String),
    /// It answered with more than a message may become.
    #[error("answered wrongly: {what}: `limits.{limit}`")]
    TooMuch {
        /// What there was too much of.
        what: String,
        /// The key of the limit.
        limit: &'static str,
    },
    /// It returned an error for the call as a whole.
    #[error("{0}")]
    Refused(String),
    /// The host could not run it: says nothing about the guest.
    #[error("the host could not run the plugin: {0}")]
    Host(String),
}

/// The host can't run a plugin, not even for one message: nothing can go on, and nobody is to blame.
/// Whoever drives the engine meets it as a panic's payload; what is not committed is done again at the
/// next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFault(pub String);

impl HostFault {
    /// Ends what goes on. Whoever catches it says it: no panic hook does.
    ///
    /// # Panics
    /// Always, with itself.
    pub(crate) fn end(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
}

/// A lane has made so much of what it was given at once that it must not hold the rest too: whoever drives it begins
/// again from what is stored, and gives it less at once ([`crate::lane::LaneBounds::step`]). A panic's payload, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overgrown(pub String);

impl CallError {
    /// Every kind that there is.
    pub const KINDS: [&'static str; 7] = ["trap", "deadline", "fuel", "memory", "answer", "error", "host"];

    /// The error's kind, as metrics label it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::Deadline { .. } => "deadline",
            Self::Fuel { .. } => "fuel",
            Self::Memory { .. } => "memory",
            Self::Answer(_) | Self::TooMuch { .. } => "answer",
            Self::Refused(_) => "error",
            Self::Host(_) => "host",
        }
    }
}

/// How often a message that failed alone is tried again, before it is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// How often it is tried alone, from 1.
    pub alone: u32,
    /// Whether a try that gave no answer is made again: a trap, too much fuel or memory, a wrong answer.
    pub traps: bool,
    /// Whether one is that answered with an error.
    pub errors: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { alone: 1, traps: true, errors: false }
    }
}

impl Tries {
    /// Whether a message is tried again that failed alone for the `tried`-th time.
    #[must_use]
    pub fn again(self, tried: u32, error: &CallError) -> bool {
        let is_meant = match error {
            CallError::Trap(_)
            | CallError::Fuel { .. }
            | CallError::Memory { .. }
            | CallError::Answer(_)
            | CallError::TooMuch { .. } => self.traps,
            CallError::Refused(_) => self.errors,
            // They convict nobody, so there is nothing to be gained by another try.
            CallError::Deadline { .. } | CallError::Host(_) => false,
        };
        is_meant && tried < self.alone
    }

    /// Whether an answer with errors is no answer: its messages are to be tried alone.
    #[must_use]
    pub fn doubts_errors(self) -> bool {
        self.errors && self.alone > 1
    }
}

/// What the engine holds an answer to, beyond its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerBounds {
    /// The most messages that one call may emit for one message.
    pub outputs_max: usize,
    /// The most bytes that the copies among them may have together: a copy costs the plugin nothing, the sinks
    /// its whole size.
    pub copies_bytes_max: usize,
    /// The most bytes that a stage may keep of what is answered about all results of one message together, however
    /// many calls that takes; what is answered about the first of them always fits.
    pub results_bytes_max: usize,
    /// Whether reasons leave out what the plugin named: it may hold a secret, which the engine doesn't know.
    pub hides_names: bool,
    /// Whether what is passed on has the key that came: a stage behind keeps state by it, and another key may be
    /// another lane's.
    pub keeps_keys: bool,
}

impl Default for AnswerBounds {
    fn default() -> Self {
        Self {
            outputs_max: 1_000,
            copies_bytes_max: 16 << 20,
            results_bytes_max: 80 << 20,
            hides_names: false,
            keeps_keys: false,
        }
    }
}

/// What became of messages, in their order: the last that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Whether any of them passed.
    pub passed: bool,
    /// How many failed for good behind the last that passed.
    pub failed: usize,
}

/// What an aggregate says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AggregateInfo {
    /// Whether fold(a ++ b) = fold(b, fold(a)) holds for its finished bytes in any order.
    pub commutative: bool,
    /// The version of its accumulators.
    pub state_version: u32,
    /// The accumulator of no messages.
    pub initial: Vec<u8>,
}

/// Which of the contract's interfaces a plugin exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds {
    /// `transform`, in either width.
    pub transform: bool,
    /// `filter`, in either width.
    pub filter: bool,
    /// `aggregate`, in either width.
    pub aggregate: bool,
    /// `scan`, in either width.
    pub scan: bool,
    /// `migrate`.
    pub migrate: bool,
}

/// What the engine must know of a plugin before it calls it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestInfo {
    /// The plugin's name: its file's, without the ending.
    pub name: String,
    /// The digest of its file, in hexadecimal.
    pub digest: String,
    /// Its version, where it names one.
    pub version: Option<String>,
    /// What it exports.
    pub kinds: Kinds,
    /// Whether calls need [`CallContext::facts`].
    pub needs_facts: bool,
    /// Whether calls need [`CallContext::state`].
    pub needs_state: bool,
    /// Whether it is granted secrets: what it names stands in no reason then.
    pub has_secrets: bool,
    /// What its aggregate says of itself.
    pub aggregate: Option<AggregateInfo>,
}

/// Makes the guests of one plugin, one for each worker.
pub trait Plugin: Send + Sync {
    /// What it is.
    fn info(&self) -> &GuestInfo;
    /// A guest for one worker. Cheap: the instance is made at the first call.
    fn guest(&self) -> Box<dyn Guest>;
    /// How often a message that failed alone is tried.
    fn tries(&self) -> Tries {
        Tries::default()
    }
    /// What its answers are held to.
    fn bounds(&self) -> AnswerBounds {
        AnswerBounds::default()
    }
}

/// A shared plugin.
pub type PluginRef = Arc<dyn Plugin>;

/// A plugin as one worker calls it. Answers are bytes as they came: the engine checks them.
///
/// One that stands around another is [`around`](Guest::around) it, and has only the calls that it changes. A call that
/// nobody has is one that the plugin doesn't export: admission sees to it that none is made.
pub trait Guest: Send {
    /// The guest that this one stands around, which is asked for all that this one leaves alone.
    fn around(&mut self) -> Option<&mut dyn Guest> {
        None
    }
    /// A message that failed alone for the `tried`-th time is about to be tried again. The engine has no clock:
    /// whoever has one may wait here.
    fn pause(&mut self, tried: u32) {
        if let Some(inner) = self.around() {
            inner.pause(tried);
        }
    }
    /// What became of the messages of `transform`, `filter`, `fold` and `scan`, once it is settled: behind each
    /// answer that counts, and behind each message that failed for good.
    fn judged(&mut self, judged: Judged) {
        if let Some(inner) = self.around() {
            inner.judged(judged);
        }
    }
    /// Its last answer was wrong: what it said and staged counts for nothing.
    fn refused(&mut self, error: &CallError) {
        if let Some(inner) = self.around() {
            inner.refused(error);
        }
    }
    /// Transforms a frame: answers edits.
    ///
    /// # Errors
    /// When there is no answer.
    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.around().ok_or_else(not_exported)?.transform(frame, cx, trial)
    }
    /// Filters a frame: answers edits that only drop, or fail messages.
    ///
    /// # Errors
    /// When there is no answer.
    fn filter(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.around().ok_or_else(not_exported)?.filter(frame, cx, trial)
    }
    /// Folds messages into accumulators. Answers blobs: tag 0, the new accumulators in the groups'
    /// order; then, with tag 1 + its index, the reason of each message that failed, which then
    /// counts for no group.
    ///
    /// # Errors
    /// When there is no answer.
    fn fold(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.around().ok_or_else(not_exported)?.fold(frame, groups, cx, trial)
    }
    /// Folds messages and edits each: answers edits and blobs as `fold`'s.
    ///
    /// # Errors
    /// When there is no answer.
    fn scan(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        self.around().ok_or_else(not_exported)?.scan(frame, groups, cx, trial)
    }
    /// Merges accumulators, two by two: 2 n blobs in, n blobs out.
    ///
    /// # Errors
    /// When there is no answer.
    fn merge(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.around().ok_or_else(not_exported)?.merge(accumulators, cx, trial)
    }
    /// Turns accumulators into JSON values: n blobs in, n blobs out; tag 1 marks a reason instead.
    ///
    /// # Errors
    /// When there is no answer.
    fn finish(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.around().ok_or_else(not_exported)?.finish(accumulators, cx, trial)
    }
    /// Turns accumulators of an older state version into today's: n blobs in, n blobs out.
    ///
    /// # Errors
    /// When there is no answer.
    fn migrate(
        &mut self,
        from_version: u32,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.around().ok_or_else(not_exported)?.migrate(from_version, accumulators, cx, trial)
    }
}

fn not_exported() -> CallError {
    CallError::Trap("not exported".to_owned())
}
