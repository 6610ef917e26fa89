//! The codecs of text, CSV, bytes and CloudEvents, through the table that users name them by.

mod cloudevents;
mod csv;
mod framing;
mod interop;
mod plain;
mod support;
