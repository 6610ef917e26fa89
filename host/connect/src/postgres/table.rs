//! What the catalog tells of a table, and the statements that write to it.

use std::collections::BTreeSet;

use tokio_postgres::types::Type as Sql;
use tokio_postgres::{Client, Row};
use wasmill_engine::key::Path;

use super::encoder::Place;
use super::link::{Link, Trouble};
use super::spec::{Mode, PostgresSinkSpec};
use super::types::Type;

/// A column that is written.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    /// The type as PostgreSQL calls it.
    pub shown: String,
    pub of: Type,
    pub not_null: bool,
    /// Whether it is a part of the key, and refuses NULL for that.
    pub is_key: bool,
    pub place: Place,
}

/// A table that is written to, as it was found.
pub(super) struct Target {
    /// Its name, quoted.
    pub table: String,
    /// Its OID.
    pub oid: u32,
    /// The columns that are written, in the rows' order.
    pub columns: Vec<Column>,
    /// What its columns' types were, to notice that they changed.
    pub fingerprint: String,
    /// Takes the rows.
    pub copy: String,
    /// Where rows go first: what makes that, what empties it, and what moves the rows on.
    pub staging: Option<Staging>,
}

/// A temporary table before the table itself.
pub(super) struct Staging {
    pub create: String,
    pub clear: String,
    pub merge: String,
}

/// Asks for the columns' types, by the table's OID.
pub(super) const FINGERPRINT: &str = "SELECT coalesce(string_agg(format('%s %s %s %s', attname, atttypid, atttypmod, attnotnull), ',' ORDER BY attnum), '')
FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";

const TABLE: &str = "SELECT c.oid, c.relkind::text, current_database()::text, current_user::text,
  has_table_privilege(c.oid, 'INSERT'),
  has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'UPDATE'),
  has_database_privilege(current_database(), 'TEMP')
FROM pg_class c WHERE c.oid = to_regclass($1)";

// A domain has its base type's binary form; domains may stand on domains.
const COLUMNS: &str = "WITH RECURSIVE base(attnum, oid, mod) AS (
  SELECT attnum, atttypid, atttypmod FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT b.attnum, t.typbasetype, CASE WHEN b.mod >= 0 THEN b.mod ELSE t.typtypmod END
  FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
)
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), b.oid, b.mod, t.typcategory::text, t.typtype::text, a.attnotnull,
  a.atthasdef OR a.attidentity <> '' AS has_default, a.attgenerated <> '' AS generated, a.attidentity = 'a' AS always
FROM pg_attribute a
JOIN base b ON b.attnum = a.attnum
JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

// Only an index that always holds, over nothing but columns, can say which row is which.
const UNIQUE: &str = "SELECT array_agg(a.attname::text) FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid";

/// A name as SQL takes it to the letter.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_all<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// A row of what the catalog tells of a column.
struct Found {
    name: String,
    shown: String,
    of: Type,
    is_array: bool,
    is_pseudo: bool,
    not_null: bool,
    has_default: bool,
    generated: bool,
    always: bool,
}

impl Found {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let (oid, modifier): (u32, i32) = (row.try_get(2)?, row.try_get(3)?);
        Ok(Self {
            name: row.try_get(0)?,
            shown: row.try_get(1)?,
            of: Type::of(oid, modifier),
            is_array: row.try_get::<_, String>(4)? == "A",
            is_pseudo: row.try_get::<_, String>(5)? == "p",
            not_null: row.try_get(6)?,
            has_default: row.try_get(7)?,
            generated: row.try_get(8)?,
            always: row.try_get(9)?,
        })
    }
}

impl Target {
    /// Looks at the table of a spec. `number` makes the name of its temporary table.
    pub async fn look(
        link: &Link,
        client: &Client,
        spec: &PostgresSinkSpec,
        number: usize,
    ) -> Result<Self, Trouble> {
        let name = &spec.table;
        let table = spec.table.split('.').map(quoted).collect::<Vec<_>>().join(".");
        let what = format!("cannot look at table `{name}`");
        let fatal = |cause: String| Trouble::Fatal { what: link.what(&format!("table `{name}`")), cause };
        let answer = link.answer(&what, client.query_typed(TABLE, &[(&table, Sql::TEXT)])).await?;
        let Some(row) = answer.first() else {
            return Err(fatal(
                "it does not exist, or is in no schema of the user's search_path: create it, or write `schema.table`"
                    .into(),
            ));
        };
        let told = |e: tokio_postgres::Error| link.tell(&what, &e);
        let oid: u32 = row.try_get(0).map_err(told)?;
        let kind: String = row.try_get(1).map_err(told)?;
        if !matches!(kind.as_str(), "r" | "p") {
            return Err(fatal("it is no table, but a view or the like: write to the table itself".into()));
        }
        let may = |i: usize| row.try_get::<_, bool>(i).map_err(told);
        let user: String = row.try_get(3).map_err(told)?;
        let upsert = spec.mode == Mode::Upsert;
        if !may(4)? {
            return Err(fatal(format!(
                "the user may not write to it; run: GRANT INSERT ON {table} TO {};",
                quoted(&user)
            )));
        }
        if upsert && !may(5)? {
            let cause = format!(
                "the user may not change its rows; run: GRANT SELECT, UPDATE ON {table} TO {};",
                quoted(&user)
            );
            return Err(fatal(cause));
        }
        let rows = link.answer(&what, client.query_typed(COLUMNS, &[(&oid, Sql::OID)])).await?;
        let found: Vec<Found> = rows.iter().map(Found::of).collect::<Result<_, _>>().map_err(told)?;
        let columns = columns(spec, &found).map_err(&fatal)?;
        if upsert {
            let rows = link.answer(&what, client.query_typed(UNIQUE, &[(&oid, Sql::OID)])).await?;
            let key: BTreeSet<&str> = spec.key.iter().map(String::as_str).collect();
            let is_key = |row: &Row| {
                let names: Vec<String> = row.try_get(0).unwrap_or_default();
                names.iter().map(String::as_str).collect::<BTreeSet<_>>() == key
            };
            if !rows.iter().any(is_key) {
                let names = quoted_all(spec.key.iter().map(String::as_str));
                return Err(fatal(format!(
                    "it has no unique index over exactly ({names}), by which an upsert knows a row; run: CREATE UNIQUE INDEX ON {table} ({names});"
                )));
            }
        }
        let fingerprint = link.answer(&what, client.query_typed(FINGERPRINT, &[(&oid, Sql::OID)])).await?;
        let fingerprint = match fingerprint.first() {
            Some(row) => row.try_get(0).map_err(told)?,
            None => String::new(),
        };
        let staged = upsert || columns.iter().any(|c| c.of == Type::Cast);
        if staged && !may(6)? {
            let database: String = row.try_get(2).map_err(told)?;
            let cause = format!(
                "an upsert, and a type that is read from text, need a temporary table; run: GRANT TEMPORARY ON DATABASE {} TO {};",
                quoted(&database),
                quoted(&user)
            );
            return Err(fatal(cause));
        }
        let names = quoted_all(columns.iter().map(|c| c.name.as_str()));
        let always = columns.iter().any(|c| found.iter().any(|f| f.name == c.name && f.always));
        let staging = staged.then(|| staging(&table, &columns, spec, number, always));
        let into = if staged { format!("pg_temp.wasmill_{number}") } else { table.clone() };
        let copy = format!("COPY {into} ({names}) FROM STDIN BINARY");
        Ok(Self { table, oid, columns, fingerprint, copy, staging })
    }
}

/// The columns that are written, from what the spec says and the table has.
fn columns(spec: &PostgresSinkSpec, found: &[Found]) -> Result<Vec<Column>, String> {
    let mut wanted: Vec<(String, Place)> = Vec::new();
    for (name, place) in &spec.columns {
        wanted.push((name.clone(), place.parse()?));
    }
    if spec.columns.is_empty() {
        for (name, place) in [
            ("id", Place::Of(Path::Id)),
            ("type", Place::Of(Path::Type)),
            ("key", Place::Of(Path::Key)),
            ("timestamp", Place::Of(Path::Timestamp)),
            ("payload", Place::Of(Path::Payload(Vec::new()))),
            ("metadata", Place::Metadata),
        ] {
            if found.iter().any(|f| f.name == name && !f.generated) {
                wanted.push((name.to_owned(), place));
            }
        }
        if wanted.is_empty() {
            return Err("it has no column that is named id, type, key, timestamp, payload or metadata: say with `columns` which column gets what".into());
        }
        if let Some(key) = spec.key.iter().find(|key| !wanted.iter().any(|(name, _)| name == *key)) {
            return Err(format!(
                "`key` names `{key}`, which gets nothing: say with `columns` which column gets what"
            ));
        }
    }
    let mut columns = Vec::with_capacity(wanted.len());
    for (name, place) in wanted {
        let Some(f) = found.iter().find(|f| f.name == name) else {
            let names: Vec<&str> = found.iter().map(|f| f.name.as_str()).collect();
            return Err(format!(
                "it has no column `{name}`: it has {}; correct `columns`, or add the column",
                names.join(", ")
            ));
        };
        if f.generated {
            return Err(format!(
                "column `{name}` ({}) is generated from others: remove it from `columns`",
                f.shown
            ));
        }
        if f.of == Type::Cast && (f.is_array || f.is_pseudo) {
            return Err(format!(
                "column `{name}` has the type {}, which wasmill can't write: use an array of a simple type, jsonb or text",
                f.shown
            ));
        }
        let is_key = spec.key.contains(&name);
        columns.push(Column {
            shown: f.shown.clone(),
            of: f.of,
            not_null: f.not_null || is_key,
            is_key: is_key && !f.not_null,
            place,
            name,
        });
    }
    let missing = |f: &&Found| {
        f.not_null && !f.has_default && !f.generated && !columns.iter().any(|c| c.name == f.name)
    };
    if let Some(f) = found.iter().find(missing) {
        return Err(format!(
            "column `{}` ({}) takes no NULL, has no default, and gets nothing of the messages: say with `columns` what it gets, or give it a default",
            f.name, f.shown
        ));
    }
    Ok(columns)
}

fn staging(table: &str, columns: &[Column], spec: &PostgresSinkSpec, number: usize, always: bool) -> Staging {
    let name = format!("wasmill_{number}");
    let declared = |c: &Column| {
        let of = if c.of == Type::Cast { "text" } else { c.shown.as_str() };
        format!("{} {of}", quoted(&c.name))
    };
    let declared = columns.iter().map(declared).collect::<Vec<_>>().join(", ");
    let value = |c: &Column| match c.of {
        Type::Cast => format!("{}::{}", quoted(&c.name), c.shown),
        _ => quoted(&c.name),
    };
    let values = columns.iter().map(value).collect::<Vec<_>>().join(", ");
    let names = quoted_all(columns.iter().map(|c| c.name.as_str()));
    let key = quoted_all(spec.key.iter().map(String::as_str));
    let overriding = if always { " OVERRIDING SYSTEM VALUE" } else { "" };
    let mut merge = format!("INSERT INTO {table} ({names}){overriding} SELECT ");
    if spec.mode == Mode::Insert {
        merge.push_str(&format!("{values} FROM pg_temp.{name} ORDER BY wasmill_nth"));
    } else {
        let known = spec.key.iter().filter_map(|key| columns.iter().find(|c| c.name == *key)).map(value);
        let known = known.collect::<Vec<_>>().join(", ");
        // Of the rows with one key the last counts. Sorted by the key, so that two processes can't lock the
        // same rows in two orders.
        merge.push_str(&format!(
            "DISTINCT ON ({known}) {values} FROM pg_temp.{name} ORDER BY {known}, wasmill_nth DESC ON CONFLICT ({key}) DO "
        ));
        let rest: Vec<String> = columns
            .iter()
            .filter(|c| !spec.key.contains(&c.name))
            .map(|c| format!("{0} = EXCLUDED.{0}", quoted(&c.name)))
            .collect();
        if rest.is_empty() {
            merge.push_str("NOTHING");
        } else {
            merge.push_str(&format!("UPDATE SET {}", rest.join(", ")));
        }
    }
    Staging {
        create: format!(
            "CREATE TEMPORARY TABLE {name} ({declared}, wasmill_nth bigint GENERATED ALWAYS AS IDENTITY (CACHE 1000)) ON COMMIT DELETE ROWS"
        ),
        clear: format!("TRUNCATE pg_temp.{name}"),
        merge,
    }
}
