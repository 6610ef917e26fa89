//! The admin calls that rdkafka's Rust layer lacks, or has for clients of another kind alone: a topic's id and
//! settings, and that a group forgets its offsets.
//! They go to librdkafka by its C interface; beside `queue` this is the crate's one place with unsafe code.
#![expect(unsafe_code, reason = "librdkafka's C interface is the only way to these calls")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::bindings::{rd_kafka_admin_op_t as Op, rd_kafka_event_t as Event, rd_kafka_resp_err_t as Code};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError as _, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

/// How long an answer may be behind its own time limit.
const GRACE: Duration = Duration::from_secs(1);

/// What librdkafka made, and what frees it.
struct Owned<T> {
    raw: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// None of nothing.
    ///
    /// # Safety
    /// `raw` is null, or librdkafka made it for the caller, nobody else frees it, and `free` is what does.
    unsafe fn new(raw: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self { raw, free })
    }

    fn raw(&self) -> *mut T {
        self.raw.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by the contract of `new` it is ours, alive until here, and freed by this and once.
        unsafe { (self.free)(self.raw()) }
    }
}

/// Makes an admin call and waits for its answer, which is no error.
///
/// `send` is given the client, the call's options and the queue for the answer, all alive while it runs.
fn call<C: ClientContext>(
    client: &Client<C>,
    op: Op,
    time_max: Duration,
    send: impl FnOnce(
        *mut native::rd_kafka_t,
        *const native::rd_kafka_AdminOptions_t,
        *mut native::rd_kafka_queue_t,
    ),
) -> Result<Owned<Event>, RDKafkaErrorCode> {
    let ms = |time: Duration| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    let none = RDKafkaErrorCode::Fail;
    let client = client.native_ptr();
    // SAFETY: `client` is borrowed for the whole call, so it is alive, and outlives what is made of it here:
    // options, queue and event are freed before this function and its caller return, the event by `Owned`.
    // The time limit's error text is not asked for, which null and 0 say.
    let event = unsafe {
        let options =
            Owned::new(native::rd_kafka_AdminOptions_new(client, op), native::rd_kafka_AdminOptions_destroy)
                .ok_or(none)?;
        native::rd_kafka_AdminOptions_set_request_timeout(options.raw(), ms(time_max), ptr::null_mut(), 0);
        let queue =
            Owned::new(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy).ok_or(none)?;
        send(client, options.raw(), queue.raw());
        let event = native::rd_kafka_queue_poll(queue.raw(), ms(time_max + GRACE));
        Owned::new(event, native::rd_kafka_event_destroy)
    };
    let event = event.ok_or(RDKafkaErrorCode::OperationTimedOut)?;
    // SAFETY: the event is alive; its code is a plain value.
    refused(unsafe { native::rd_kafka_event_error(event.raw()) })?;
    Ok(event)
}

fn refused(code: Code) -> Result<(), RDKafkaErrorCode> {
    if code.is_error() { Err(code.into()) } else { Ok(()) }
}

/// The list of an answer's result, which belongs to the event; empty where there is none.
///
/// # Safety
/// `result` is null or part of the event, and `of` answers null, or as many as it counts.
unsafe fn list<R, T>(
    _: &Owned<Event>,
    result: *const R,
    of: unsafe extern "C" fn(*const R, *mut usize) -> *mut T,
) -> &[T] {
    if result.is_null() {
        return &[];
    }
    let mut count = 0;
    // SAFETY: by the contract of this function; null is no list.
    unsafe {
        let all = of(result, &raw mut count);
        if all.is_null() { &[] } else { std::slice::from_raw_parts(all, count) }
    }
}

fn text(of: &str) -> Result<CString, RDKafkaErrorCode> {
    CString::new(of).map_err(|_| RDKafkaErrorCode::InvalidArgument)
}

/// The id of a topic, which no other topic ever has, not even a later one of the same name; none where the
/// brokers have no ids, being older than 2.8.
///
/// # Errors
/// What the brokers, or librdkafka for them, answer.
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    time_max: Duration,
) -> Result<Option<String>, RDKafkaErrorCode> {
    let name = text(topic)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: `names` is an array of one text that ends in 0; librdkafka copies it.
    let topics = unsafe {
        Owned::new(
            native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            native::rd_kafka_TopicCollection_destroy,
        )
    }
    .ok_or(RDKafkaErrorCode::InvalidArgument)?;
    let answer = call(client, Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, time_max, |client, options, queue| {
        // SAFETY: all four are alive; librdkafka copies the topics before it returns.
        unsafe { native::rd_kafka_DescribeTopics(client, topics.raw(), options, queue) }
    });
    let event = match answer {
        Ok(event) => event,
        Err(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion) => return Ok(None),
        Err(code) => return Err(code),
    };
    // SAFETY: what is read belongs to the event, which lives to the end of this function. Each pointer is
    // checked; the id's text ends in 0.
    unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.raw());
        let all = list(&event, result, native::rd_kafka_DescribeTopics_result_topics);
        let found = *all.first().ok_or(RDKafkaErrorCode::UnknownTopicOrPartition)?;
        let error = native::rd_kafka_TopicDescription_error(found);
        if !error.is_null() {
            refused(native::rd_kafka_error_code(error))?;
        }
        let id = native::rd_kafka_TopicDescription_topic_id(found);
        let bits = |id| {
            native::rd_kafka_Uuid_most_significant_bits(id) | native::rd_kafka_Uuid_least_significant_bits(id)
        };
        if id.is_null() || bits(id) == 0 {
            return Ok(None);
        }
        let id = native::rd_kafka_Uuid_base64str(id);
        if id.is_null() {
            return Ok(None);
        }
        Ok(Some(CStr::from_ptr(id).to_string_lossy().into_owned()))
    }
}

/// How a topic is set; none where the brokers don't have the setting.
///
/// # Errors
/// What the brokers, or librdkafka for them, answer.
pub(super) fn topic_setting<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    setting: &str,
    time_max: Duration,
) -> Result<Option<String>, RDKafkaErrorCode> {
    let name = text(topic)?;
    let kind = native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
    // SAFETY: the text ends in 0; librdkafka copies it.
    let resource = unsafe {
        Owned::new(
            native::rd_kafka_ConfigResource_new(kind, name.as_ptr()),
            native::rd_kafka_ConfigResource_destroy,
        )
    }
    .ok_or(RDKafkaErrorCode::InvalidArgument)?;
    let mut asked = [resource.raw()];
    let event = call(client, Op::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, time_max, |client, options, queue| {
        // SAFETY: all are alive, and the array is as long as is said; librdkafka copies it.
        unsafe {
            native::rd_kafka_DescribeConfigs(client, asked.as_mut_ptr(), asked.len(), options, queue);
        }
    })?;
    // SAFETY: as in `topic_id`: all of it belongs to the event, and each pointer is checked; names and values
    // are texts that end in 0.
    unsafe {
        let result = native::rd_kafka_event_DescribeConfigs_result(event.raw());
        let all = list(&event, result, native::rd_kafka_DescribeConfigs_result_resources);
        let found = *all.first().ok_or(RDKafkaErrorCode::UnknownTopicOrPartition)?;
        refused(native::rd_kafka_ConfigResource_error(found))?;
        for entry in list(&event, found, native::rd_kafka_ConfigResource_configs) {
            let name = native::rd_kafka_ConfigEntry_name(*entry);
            let value = native::rd_kafka_ConfigEntry_value(*entry);
            if !name.is_null() && !value.is_null() && CStr::from_ptr(name).to_bytes() == setting.as_bytes() {
                return Ok(Some(CStr::from_ptr(value).to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }
}

/// Makes a group forget its offsets of these partitions. The brokers refuse it while a member of the group
/// has subscribed to the topic.
///
/// # Errors
/// What the brokers, or librdkafka for them, answer.
pub(super) fn forget_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    partitions: &TopicPartitionList,
    time_max: Duration,
) -> Result<(), RDKafkaErrorCode> {
    let group = text(group)?;
    // SAFETY: the text ends in 0 and the list is alive; librdkafka copies both.
    let request = unsafe {
        Owned::new(
            native::rd_kafka_DeleteConsumerGroupOffsets_new(group.as_ptr(), partitions.ptr()),
            native::rd_kafka_DeleteConsumerGroupOffsets_destroy,
        )
    }
    .ok_or(RDKafkaErrorCode::InvalidArgument)?;
    let mut requests = [request.raw()];
    let op = Op::RD_KAFKA_ADMIN_OP_DELETECONSUMERGROUPOFFSETS;
    let event = call(client, op, time_max, |client, options, queue| {
        // SAFETY: all are alive, and the array is as long as is said; librdkafka copies it.
        unsafe {
            native::rd_kafka_DeleteConsumerGroupOffsets(
                client,
                requests.as_mut_ptr(),
                requests.len(),
                options,
                queue,
            );
        }
    })?;
    // SAFETY: as in `topic_id`: all of it belongs to the event, and each pointer and length is checked.
    unsafe {
        let result = native::rd_kafka_event_DeleteConsumerGroupOffsets_result(event.raw());
        let all = list(&event, result, native::rd_kafka_DeleteConsumerGroupOffsets_result_groups);
        let found = *all.first().ok_or(RDKafkaErrorCode::Fail)?;
        let error = native::rd_kafka_group_result_error(found);
        if !error.is_null() {
            refused(native::rd_kafka_error_code(error))?;
        }
        let partitions = native::rd_kafka_group_result_partitions(found);
        if !partitions.is_null() && !(*partitions).elems.is_null() {
            let length = usize::try_from((*partitions).cnt).unwrap_or(0);
            std::slice::from_raw_parts((*partitions).elems, length)
                .iter()
                .try_for_each(|p| refused(p.err))?;
        }
    }
    Ok(())
}
