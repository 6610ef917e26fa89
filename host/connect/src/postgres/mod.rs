//! PostgreSQL: rows of a table a message, and a pipeline's state and positions in the rows' own transaction.
//!
//! ```text
//! spec      what a user sets, and which database that is
//! link      connections, and what each error means
//! table     what the catalog tells of a table, and the statements for it
//! types     one value as a column's type has it in binary; numeric for its digits; shown for dead letters
//! encoder   a message as one row of COPY's binary form
//! load      rows as they are kept, and how COPY takes them
//! session   the transaction of an epoch: begun, filled, halved around refused rows, done again when it was lost
//! sink      the session as a sink
//! store     the session's commit as a store's: state, positions and rows at once
//! ```
//! Rows are kept in memory until it is known that they are committed: a lost connection costs the same rows sent
//! once more, and nothing else.

mod encoder;
mod link;
mod load;
mod numeric;
mod session;
mod shown;
mod sink;
mod spec;
mod store;
mod table;
mod types;

pub use spec::{Mode, PostgresAddress, PostgresSinkSpec, Tls};
pub use store::{POSTGRES_FORMAT, PostgresStore, PostgresView};
