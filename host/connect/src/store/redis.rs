//! State in Redis: of one process alone, or with totals that several processes share.
//!
//! ```text
//! wasmill:{NAME}:meta       format, use, generation, epoch; alone: owner, checkpoint (JSON);
//!                           shared: shape, count:<name>
//! wasmill:{NAME}:state      stored key → value
//! wasmill:{NAME}:positions  shared: partition → owner LF attempt LF position (JSON)
//! wasmill:{NAME}:foretold   epoch, facts
//! wasmill:{NAME}:incoming:<mark>  new contents that don't count yet (tools.rs); meta has the mark
//! wasmill:{NAME}:settled    the start of the server behind which its file was rewritten (redis_durable.rs)
//! wasmill:{NAME}:turn       shared: who commits next, for half a second, because it was too slow often
//! ```
//! A commit is one script (`redis/commit.lua`), so it happens whole or not at all. It names what it was
//! made from, the owner and the positions before it, and is refused where that is not what is stored: a
//! process that was replaced writes nothing. It leaves its own mark beside them, so a commit whose answer
//! was lost is known again when it is tried again, and counts once.
//!
//! A shared key is merged by this process with the value that it saw last; the script stores the result
//! only if that is still the value, and else answers the one it has, to be merged anew.

mod claims;
mod entries;
mod guards;
mod order;
mod tools;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Connection, FromRedisValue, RedisResult, Script, Value};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{Checkpoint, Delta, Epoch, Merged, Share, StateStore, StoreError, VisitEntry};
use wasmill_engine::stored_key::PREFIX_BYTES;
use xxhash_rust::xxh3::xxh3_128;

use entries::{Restored, SCAN_FIELDS};
use guards::Sharing;
pub use tools::RedisView;

use crate::chance::random;
use crate::random_token;
use crate::redis_durable::Durable;
use crate::redis_link::{Advice, Link, SharedLink};
pub use crate::redis_link::{RedisAddress, check_url};
use wire::{bytes, json, pack, pack_texts, text};

/// The version of what is in Redis.
pub const REDIS_FORMAT: u32 = 1;

/// Merges what one epoch put to a stored key, the last argument, into what is stored, the one before it.
pub type Merge = Arc<dyn Fn(&[u8], &[u8], &[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

const ADVICE: Advice = Advice {
    no_permission: "the user must be allowed EVALSHA, SCRIPT LOAD, HSET, HGET, HMGET, HGETALL, HDEL, HSCAN, HINCRBY, EXISTS, RENAME, DEL, UNLINK, GET and SET on `wasmill:*`, and INFO and BGREWRITEAOF",
    wrong_type: "something else is stored under this pipeline's keys: use another database or name",
};

/// How often a commit merges anew because others were faster, before it waits as for a server that is away.
const MERGE_TRIES_MAX: u32 = 64;
/// After how many of them it asks the others to wait for it.
const PATIENT_ROUNDS: u32 = 4;
/// The longest wait between two of them.
const JITTER_MICROS_MAX: u64 = 10_000;
/// The longest argument that Redis takes, by default.
const ARGUMENT_BYTES_MAX: usize = 512 << 20;

/// State in Redis.
pub struct RedisStore {
    pipeline: String,
    address: String,
    keys: Keys,
    scripts: Scripts,
    usage: Usage,
    /// Reads have a connection of their own, for a commit may be long.
    reads: SharedLink,
    writes: SharedLink,
    durable: Mutex<Durable>,
    held: Mutex<Held>,
    restored: Mutex<Restored>,
}

enum Usage {
    /// One process has the whole state.
    Alone,
    /// Several processes put to the same totals.
    Shared(Merge),
}

impl Usage {
    fn name(&self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Shared(_) => "shared",
        }
    }
}

struct Keys {
    meta: String,
    state: String,
    foretold: String,
    positions: String,
    turn: String,
}

struct Scripts {
    open: Script,
    claim: Script,
    commit: Script,
    foretell: Script,
    reset: Script,
}

/// What this process may commit, and from where on.
#[derive(Default)]
struct Held {
    /// The owner: random, so that nobody takes another's for its own.
    token: String,
    /// Alone: the owner as it is stored, with the last commit's mark.
    owner: String,
    /// Shared: the claimed partitions as they are stored.
    claimed: Option<BTreeMap<PartitionId, String>>,
    /// Shared keys as they were seen last; none for one that is not stored.
    seen: HashMap<Vec<u8>, Option<Vec<u8>>>,
    merged: Merged,
    /// Shared: the counts that are in Redis already, of those that the checkpoints of this process tell.
    counted: BTreeMap<String, u64>,
}

impl RedisStore {
    /// Opens a pipeline's state for this process alone: whoever had it before commits nothing more.
    ///
    /// # Errors
    /// When Redis is away, or refuses; when what is stored is of another format or use.
    pub fn open_alone(at: impl Into<RedisAddress>, pipeline: &str) -> Result<Self, StoreError> {
        Self::open(&at.into(), pipeline, Usage::Alone)
    }

    /// Opens a pipeline's state that other processes put to as well. Nothing can be committed before
    /// [`RedisStore::claim`].
    ///
    /// # Errors
    /// As [`RedisStore::open_alone`].
    pub fn open_shared(
        at: impl Into<RedisAddress>,
        pipeline: &str,
        merge: Merge,
    ) -> Result<Self, StoreError> {
        Self::open(&at.into(), pipeline, Usage::Shared(merge))
    }

    fn open(at: &RedisAddress, pipeline: &str, usage: Usage) -> Result<Self, StoreError> {
        let store = Self::unopened(at, pipeline, usage)?;
        let owner = {
            let mut held = store.held();
            held.token = random_token();
            held.owner = format!("{}\n", held.token);
            held.owner.clone()
        };
        let mut call = store.scripts.open.prepare_invoke();
        call.key(&store.keys.meta).arg(REDIS_FORMAT).arg(store.usage.name()).arg(owner);
        let answer: Vec<String> = store.write("cannot open the state", |c| call.invoke(c))?;
        let found = answer.get(1).cloned().unwrap_or_default();
        match answer.first().map(String::as_str) {
            Some("ok") => {}
            Some("format") => {
                return Err(StoreError::Format { path: store.place(), found, expected: REDIS_FORMAT });
            }
            _ => {
                let cause = format!(
                    "it was written for use {found} and is opened for use {}: let the pipeline be as it was, or run `wasmill reset`",
                    store.usage.name()
                );
                return Err(StoreError::Io { what: format!("cannot open {}", store.place()), cause });
            }
        }
        store.warn_of_eviction();
        Ok(store)
    }

    fn unopened(at: &RedisAddress, pipeline: &str, usage: Usage) -> Result<Self, StoreError> {
        let (reads, writes) = (Link::new(at, ADVICE)?, Link::new(at, ADVICE)?);
        let key = |of: &str| format!("wasmill:{{{pipeline}}}:{of}");
        Ok(Self {
            pipeline: pipeline.to_owned(),
            address: writes.address().to_owned(),
            keys: Keys {
                meta: key("meta"),
                state: key("state"),
                foretold: key("foretold"),
                positions: key("positions"),
                turn: key("turn"),
            },
            scripts: Scripts {
                open: Script::new(include_str!("redis/open.lua")),
                claim: Script::new(include_str!("redis/claim.lua")),
                commit: Script::new(include_str!("redis/commit.lua")),
                foretell: Script::new(include_str!("redis/foretell.lua")),
                reset: Script::new(include_str!("redis/reset.lua")),
            },
            usage,
            durable: Mutex::new(Durable::new(writes.address().to_owned(), key("settled"))),
            reads: SharedLink::new(reads),
            writes: SharedLink::new(writes),
            held: Mutex::default(),
            restored: Mutex::default(),
        })
    }

    /// Resets a pipeline's state, even where it can't be opened for its format or its use. Answers the
    /// generation.
    ///
    /// # Errors
    /// When Redis is away, or refuses.
    pub fn reset_at(at: impl Into<RedisAddress>, pipeline: &str) -> Result<u64, StoreError> {
        Self::unopened(&at.into(), pipeline, Usage::Alone)?.raise_generation()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    /// Where the state is, for errors and logs.
    fn place(&self) -> String {
        format!("the state of pipeline `{}` in {}", self.pipeline, self.address)
    }

    fn corrupt(&self, what: &str, cause: String) -> StoreError {
        StoreError::Corrupt { what: format!("{what} in {}", self.place()), cause }
    }

    fn read<T: FromRedisValue>(
        &self,
        what: &str,
        call: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        self.reads.call(&self.what(what), call)
    }

    /// Whatever is written: before it, a server that was started anew has its file rewritten, else this would be
    /// the end of what a kill tore.
    fn write<T: FromRedisValue>(
        &self,
        what: &str,
        call: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let mut durable = lock(&self.durable);
        durable.settle(&self.writes)?;
        self.writes.call(&self.what(what), call).inspect_err(|_| durable.unsettle())
    }

    fn what(&self, what: &str) -> String {
        format!("{what} of pipeline `{}`", self.pipeline)
    }

    /// Warns where Redis may throw state away. Whoever may not ask is not told.
    fn warn_of_eviction(&self) {
        let asked = |c: &mut Connection| {
            redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query::<Vec<String>>(c)
        };
        if let Ok(answer) = self.read("cannot ask for the settings", asked)
            && let Some(policy) = answer.get(1).filter(|policy| policy.starts_with("allkeys"))
        {
            tracing::warn!(
                redis = %self.address, %policy,
                "this Redis throws keys away when its memory is full, and would lose state: set maxmemory-policy to noeviction"
            );
        }
    }

    fn raise_generation(&self) -> Result<u64, StoreError> {
        let mut call = self.scripts.reset.prepare_invoke();
        call.key(&self.keys.meta).key(&self.keys.state).key(&self.keys.foretold).key(&self.keys.positions);
        call.arg(REDIS_FORMAT);
        let generation: String = self.write("cannot reset the state", |c| call.invoke(c))?;
        generation.parse().map_err(|_| self.corrupt("the generation", format!("it is {generation:?}")))
    }

    fn meta(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.read("cannot read the checkpoint", |c| redis::cmd("HGETALL").arg(&self.keys.meta).query(c))
    }

    fn number(&self, meta: &BTreeMap<String, Vec<u8>>, field: &str) -> Result<u64, StoreError> {
        let Some(bytes) = meta.get(field) else { return Ok(0) };
        let text = String::from_utf8_lossy(bytes);
        text.parse().map_err(|_| self.corrupt(&format!("`{field}`"), format!("it is {text:?}, not a number")))
    }
}

impl StateStore for RedisStore {
    fn name(&self) -> String {
        format!("{} ({})", self.address, self.usage.name())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if matches!(self.usage, Usage::Shared(_)) {
            return self.shared_checkpoint();
        }
        let read = |c: &mut Connection| redis::cmd("HGET").arg(&self.keys.meta).arg("checkpoint").query(c);
        let json: Option<Vec<u8>> = self.read("cannot read the checkpoint", read)?;
        let Some(json) = json else { return Ok(None) };
        let checkpoint = serde_json::from_slice(&json);
        checkpoint.map(Some).map_err(|e| self.corrupt("the checkpoint", e.to_string()))
    }

    fn generation(&self) -> Result<u64, StoreError> {
        let meta = self.meta()?;
        self.number(&meta, "generation")
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = |c: &mut Connection| redis::cmd("HGET").arg(&self.keys.state).arg(key).query(c);
        self.read("cannot read the state", read)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut values = Vec::with_capacity(keys.len());
        for some in keys.chunks(SCAN_FIELDS) {
            let read = |c: &mut Connection| redis::cmd("HMGET").arg(&self.keys.state).arg(some).query(c);
            values.extend(self.read::<Vec<Option<Vec<u8>>>>("cannot read the state", read)?);
        }
        Ok(values)
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.sorted_entries(prefix, after, visit)
    }

    // A lane asks for one key group after the other: one pass answers for all of a stage's.
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let is_group = prefix.len() == PREFIX_BYTES;
        let entries = if is_group { self.group_entries(prefix)? } else { self.all_entries(prefix)? };
        for (key, value) in &entries {
            visit(key, value);
        }
        Ok(())
    }

    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut held = self.held();
        let shared = matches!(self.usage, Usage::Shared(_));
        if shared && checkpoint.positions.is_empty() && !delta.changes.is_empty() {
            return Err(self.fenced("none"));
        }
        let mut others = Vec::new();
        let mut content = json(checkpoint)?.into_bytes();
        for change in &delta.changes {
            match &change.share {
                Some(Share::Accumulator(share)) if shared => {
                    pack(&mut content, Some(&change.key));
                    pack(&mut content, Some(share));
                }
                _ => {
                    pack(&mut others, Some(&change.key));
                    pack(&mut others, change.value.as_deref());
                }
            }
        }
        content.extend_from_slice(&others);
        // The same commit has the same mark, so that it is known when it is tried again.
        let attempt = format!("{:032x}", xxh3_128(&content));
        let guards = self.guards(&held, &attempt, checkpoint)?;
        let mut packed_guards = Vec::new();
        for (field, stored, new) in &guards {
            pack_texts(&mut packed_guards, &[field, stored, new]);
        }
        let mut fields = Vec::new();
        let mut counts = Vec::new();
        pack_texts(&mut fields, &["use", self.usage.name()]);
        if shared {
            pack_texts(&mut fields, &["shape", &checkpoint.shape]);
            for (name, count) in &checkpoint.counts {
                let more = count.saturating_sub(held.counted.get(name).copied().unwrap_or_default());
                let more = more.min(i64::MAX as u64).to_string();
                pack_texts(&mut counts, &[&format!("count:{name}"), &more]);
            }
        } else {
            pack_texts(&mut fields, &["checkpoint", &json(checkpoint)?]);
        }
        let what = format!("cannot commit epoch {}", checkpoint.epoch);
        let mut sharing = self.sharing(&held, delta)?;
        for round in 0..MERGE_TRIES_MAX {
            let mut packed_shared = Vec::new();
            for Sharing { key, expected, new, .. } in &sharing {
                pack(&mut packed_shared, Some(key));
                pack(&mut packed_shared, expected.as_deref());
                pack(&mut packed_shared, Some(new));
            }
            if others.len().max(packed_shared.len()) >= ARGUMENT_BYTES_MAX {
                let cause = "the epoch changes more than 512 MiB of state, which is the most that Redis takes at once: lower `epoch`";
                return Err(StoreError::Io { what: self.what(&what), cause: cause.into() });
            }
            let mut call = self.scripts.commit.prepare_invoke();
            call.key(&self.keys.meta).key(&self.keys.state).key(&self.keys.foretold);
            call.key(if shared { &self.keys.positions } else { &self.keys.meta }).key(&self.keys.turn);
            call.arg(checkpoint.generation).arg(checkpoint.epoch).arg(self.usage.name());
            call.arg(&checkpoint.shape).arg(&packed_guards).arg(packed_shared).arg(&others);
            call.arg(&fields).arg(&counts);
            call.arg(if round < PATIENT_ROUNDS { "" } else { &held.token });
            let answer: Vec<Value> = self.write(&what, |c| call.invoke(c))?;
            let mut answer = answer.into_iter();
            let outcome = answer.next().map(text).unwrap_or_default();
            match outcome.as_str() {
                "ok" => {}
                "done" => {
                    for (shared, now) in sharing.iter_mut().zip(answer) {
                        shared.new = bytes(now).unwrap_or_default();
                    }
                }
                "stale" => {
                    for (shared, now) in sharing.iter_mut().zip(answer) {
                        let now = bytes(now);
                        if now != shared.expected {
                            shared.new = self.merge(shared.key, now.as_deref(), shared.share)?;
                            shared.expected = now;
                        }
                    }
                    if round > 0 {
                        std::thread::sleep(Duration::from_micros(random(round) % JITTER_MICROS_MAX));
                    }
                    continue;
                }
                refused => {
                    let found = answer.next().map(text).unwrap_or_default();
                    return Err(self.refused(refused, &found, checkpoint));
                }
            }
            held.keep(guards, checkpoint, &sharing);
            *lock(&self.restored) = Restored::default();
            return Ok(());
        }
        Err(StoreError::Away {
            what: self.what(&what),
            cause: format!("other processes changed the same totals {MERGE_TRIES_MAX} times meanwhile"),
        })
    }

    fn merged(&self) -> Merged {
        std::mem::take(&mut self.held().merged)
    }

    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        // Where others put to the same totals no replay can repeat what was shown: nothing to foretell.
        if matches!(self.usage, Usage::Shared(_)) {
            return Ok(());
        }
        let token = self.held().token.clone();
        let mut call = self.scripts.foretell.prepare_invoke();
        call.key(&self.keys.meta).key(&self.keys.foretold).arg(token).arg(epoch).arg(facts);
        let answer: Vec<String> = self.write("cannot store what is foretold", |c| call.invoke(c))?;
        if answer.first().is_some_and(|a| a == "ok") { Ok(()) } else { Err(self.fenced("owner")) }
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        if matches!(self.usage, Usage::Shared(_)) {
            return Ok(None);
        }
        let read = |c: &mut Connection| {
            redis::cmd("HMGET").arg(&self.keys.foretold).arg("epoch").arg("facts").query(c)
        };
        let (epoch, facts): (Option<String>, Option<Vec<u8>>) =
            self.read("cannot read what was foretold", read)?;
        let (Some(epoch), Some(facts)) = (epoch, facts) else { return Ok(None) };
        match epoch.parse() {
            Ok(epoch) => Ok(Some((epoch, facts))),
            Err(_) => Err(self.corrupt("what was foretold", format!("its epoch is {epoch:?}"))),
        }
    }

    fn reset(&self) -> Result<(), StoreError> {
        let mut held = self.held();
        self.raise_generation()?;
        *held = Held { token: held.token.clone(), owner: held.owner.clone(), ..Held::default() };
        *lock(&self.restored) = Restored::default();
        Ok(())
    }
}

// No holder of a lock here can panic between two changes that belong together.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
