//! Values on their way to PostgreSQL and back.

use std::sync::Arc;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgHasArrayType, PgRow, PgTypeInfo};
use sqlx::{Arguments as _, Column as _, Encode, Postgres, Row as _, Type, TypeInfo as _, ValueRef as _};

use crate::unit::{Cell, Row};

/// One argument of a [`Call`](super::Call). Columns of many rows travel as arrays, one argument each.
#[derive(Debug, Clone)]
pub enum Arg {
    /// A `bigint`.
    Int(i64),
    /// A `text`, or NULL.
    Text(Option<Arc<str>>),
    /// A `uuid`.
    Id([u8; 16]),
    /// A `bigint[]`.
    Ints(Vec<i64>),
    /// No `bigint[]` at all.
    NoInts,
    /// No `text[]` at all.
    NoTexts,
    /// No `uuid[]` at all.
    NoIds,
    /// A `bigint[]` with NULLs.
    OptionalInts(Vec<Option<i64>>),
    /// A `text[]`.
    Texts(Vec<Option<Arc<str>>>),
    /// A `uuid[]`.
    Ids(Vec<Option<[u8; 16]>>),
    /// A `bytea[]`.
    Blobs(Vec<Arc<[u8]>>),
}

/// The 16 bytes of an id as a `uuid`.
#[derive(Clone, Copy)]
pub(super) struct Uuid(pub(super) [u8; 16]);

/// The object id of `uuid` and of its array, the same on every server.
const UUID_OID: u32 = 2950;
const UUID_ARRAY_OID: u32 = 2951;

impl Type<Postgres> for Uuid {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(UUID_OID))
    }
}

impl PgHasArrayType for Uuid {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(UUID_ARRAY_OID))
    }
}

impl Encode<'_, Postgres> for Uuid {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

/// Values of these kinds always encode, so the result carries nothing.
pub(super) fn bind(arguments: &mut PgArguments, arg: &Arg) {
    match arg {
        Arg::Int(value) => arguments.add(*value),
        Arg::Text(value) => arguments.add(value.as_deref()),
        Arg::Id(value) => arguments.add(Uuid(*value)),
        Arg::NoInts => arguments.add(None::<&[i64]>),
        Arg::NoTexts => arguments.add(None::<&[&str]>),
        Arg::NoIds => arguments.add(None::<&[Uuid]>),
        Arg::Ints(values) => arguments.add(values.as_slice()),
        Arg::OptionalInts(values) => arguments.add(values.as_slice()),
        Arg::Texts(values) => arguments.add(values.iter().map(Option::as_deref).collect::<Vec<_>>()),
        Arg::Ids(values) => arguments.add(values.iter().map(|id| id.map(Uuid)).collect::<Vec<_>>()),
        Arg::Blobs(values) => arguments.add(values.iter().map(|bytes| &**bytes).collect::<Vec<&[u8]>>()),
    }
    .expect("integers, texts and bytes always encode");
}

/// Binds one value; NULL travels as a text, which is the type PostgreSQL itself gives to what says nothing.
pub(super) fn bind_cell(arguments: &mut PgArguments, cell: &Cell) {
    match cell {
        Cell::Null => arguments.add(None::<&str>),
        Cell::Int(value) => arguments.add(*value),
        Cell::Text(value) => arguments.add(&**value),
        Cell::Id(value) => arguments.add(Uuid(*value)),
        Cell::Blob(value) => arguments.add(value.as_slice()),
    }
    .expect("integers, texts and bytes always encode");
}

pub(super) fn read_row(row: &PgRow) -> Result<Row, sqlx::Error> {
    (0..row.columns().len())
        .map(|at| {
            let value = row.try_get_raw(at)?;
            if value.is_null() {
                return Ok(Cell::Null);
            }
            let type_info = value.type_info();
            Ok(match type_info.name() {
                "INT8" => Cell::Int(row.try_get_unchecked(at)?),
                "INT4" => Cell::Int(row.try_get_unchecked::<i32, _>(at)?.into()),
                "INT2" => Cell::Int(row.try_get_unchecked::<i16, _>(at)?.into()),
                "BOOL" => Cell::Int(row.try_get_unchecked::<bool, _>(at)?.into()),
                "TEXT" | "VARCHAR" => Cell::Text(row.try_get_unchecked::<&str, _>(at)?.into()),
                "BYTEA" => Cell::Blob(row.try_get_unchecked(at)?),
                "UUID" => {
                    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
                    Cell::Id(
                        bytes
                            .try_into()
                            .map_err(|_| unexpected(row, at, "a short UUID"))?,
                    )
                }
                "VOID" => Cell::Null,
                other => return Err(unexpected(row, at, other)),
            })
        })
        .collect::<Result<_, _>>()
        .map(Row)
}

fn unexpected(row: &PgRow, at: usize, found: &str) -> sqlx::Error {
    let column = row.columns().get(at);
    sqlx::Error::ColumnDecode {
        index: column.map_or_else(String::new, |column| column.name().to_owned()),
        source: format!("unexpected type {found}").into(),
    }
}
