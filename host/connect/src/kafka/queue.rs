//! A partition's queue in librdkafka, taken from some messages at a time.
//!
//! The client's Rust layer hands over one message a call, with a time-out, an event and a lock each, which
//! costs as much as all else that is done to read a message; and it panics on a header's name that is not
//! UTF-8. So this calls librdkafka itself. Nothing but what is safe leaves it.
#![expect(unsafe_code, reason = "librdkafka's calls for a queue, which its Rust layer doesn't have")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as sys;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::{RDKafka, RDKafkaRespErr};
use tokio::sync::Notify;

use super::group::{GroupConsumer, number};

/// How many messages are taken at once. Those that a reader has no room for are kept for its next call, so
/// that this many may be held beyond the client's own bound.
const TAKEN_AT_ONCE: usize = 16;

/// A partition's queue, split off from its consumer's. It is not fed any more once the consumer is given the
/// partition anew.
pub(super) struct Queue {
    /// Taken and not handed on yet, first one last. Messages go before their queue, and that before the consumer.
    taken: Vec<Fetched>,
    native: NonNull<sys::rd_kafka_queue_t>,
    filled: Arc<Notify>,
    _consumer: Arc<GroupConsumer>,
}

// SAFETY: librdkafka's objects may be used from any thread; what is here has one user at a time.
unsafe impl Send for Queue {}

impl Queue {
    /// Splits a partition's queue off, before the partition is assigned: what is fetched then never goes to
    /// the consumer's own. `filled` is told when it is no longer empty.
    pub fn split(
        consumer: &Arc<GroupConsumer>,
        topic: &str,
        partition: u32,
        filled: &Arc<Notify>,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client lives as long as `consumer`, the name during the call; the answer is ours.
        let native = unsafe { sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), number(partition)) };
        let queue = Self {
            taken: Vec::with_capacity(TAKEN_AT_ONCE),
            native: NonNull::new(native)?,
            filled: Arc::clone(filled),
            _consumer: Arc::clone(consumer),
        };
        let told = Arc::as_ptr(&queue.filled);
        // SAFETY: the queue is valid; what `tell` is given lives until `drop` has disabled the callback.
        unsafe {
            sys::rd_kafka_queue_forward(queue.native.as_ptr(), ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(
                queue.native.as_ptr(),
                Some(tell),
                told.cast_mut().cast::<c_void>(),
            );
        }
        Some(queue)
    }

    /// The next message, if one is there already.
    pub fn next(&mut self) -> Option<Fetched> {
        if self.taken.is_empty() {
            self.take();
        }
        self.taken.pop()
    }

    /// Puts the message that `next` answered back.
    pub fn put_back(&mut self, message: Fetched) {
        self.taken.push(message);
    }

    fn take(&mut self) {
        let mut taken: [*mut sys::rd_kafka_message_t; TAKEN_AT_ONCE] = [ptr::null_mut(); TAKEN_AT_ONCE];
        // SAFETY: the queue is valid, and there is room for as many as are asked for.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(self.native.as_ptr(), 0, taken.as_mut_ptr(), taken.len())
        };
        let count = usize::try_from(count).unwrap_or(0);
        self.taken.extend(taken[..count].iter().rev().copied().filter_map(NonNull::new).map(Fetched));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.taken.clear();
        // SAFETY: after the first call nobody calls `tell` any more, for it takes the queue's lock; the queue is
        // ours to destroy, once, and the consumer is still there.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.native.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.native.as_ptr());
        }
    }
}

/// Called by librdkafka, in a thread of its own.
unsafe extern "C" fn tell(_: *mut RDKafka, filled: *mut c_void) {
    // SAFETY: it is what `split` gave, which lives until the callback is disabled.
    let filled = unsafe { &*filled.cast::<Notify>() };
    filled.notify_one();
}

/// A message as librdkafka has it, or an error that came in its place.
pub(super) struct Fetched(NonNull<sys::rd_kafka_message_t>);

// SAFETY: as of `Queue`.
unsafe impl Send for Fetched {}

impl Fetched {
    fn native(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: it is valid until it is destroyed, in `drop`.
        unsafe { self.0.as_ref() }
    }

    /// The error that came in a message's place.
    pub fn error(&self) -> Option<RDKafkaErrorCode> {
        let code = self.native().err;
        (code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }

    /// Its offset.
    pub fn offset(&self) -> Option<u64> {
        u64::try_from(self.native().offset).ok()
    }

    /// Its value; none of a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka's own pointer and length, which belong to the message.
        unsafe { bytes(self.native().payload, self.native().len) }
    }

    /// Its key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        // SAFETY: as of `value`.
        unsafe { bytes(self.native().key, self.native().key_len) }
    }

    /// Its timestamp in milliseconds, if it has one, and whether that is when the log took it in.
    pub fn time(&self) -> (Option<i64>, bool) {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid.
        let ms = unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        let is_there = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && ms >= 0;
        (is_there.then_some(ms), kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
    }

    /// Hands its headers to `take`, in order: names as they are, and values.
    pub fn headers(&self, mut take: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid; the headers belong to it.
        let found = unsafe { sys::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for nth in 0.. {
            let (mut name, mut value, mut size): (*const c_char, *const c_void, usize) =
                (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers are valid as long as the message; a number behind the last one is told.
            let found = unsafe {
                sys::rd_kafka_header_get_all(headers, nth, &raw mut name, &raw mut value, &raw mut size)
            };
            if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            // SAFETY: a header's name ends with a zero; pointer and length of its value are librdkafka's own.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, size)) };
            take(name.to_bytes(), value);
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // SAFETY: it is ours, and destroyed once.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// # Safety
/// `start` must be null, or point to so many bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's word.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) })
}
