//! Lenient reading of JSON. A value of an undocumented type reads as `None`. Its syntax, depth and
//! numbers are still checked, so no later access can fail.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::de::StrRead;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::text::StringArena;

/// The text of a body, and the arena for its decoded strings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'de> {
    pub(crate) text: &'de str,
    pub(crate) strings: &'de StringArena,
}

impl<'de> Source<'de> {
    pub(crate) fn reader(self) -> serde_json::Deserializer<StrRead<'de>> {
        serde_json::Deserializer::from_str(self.text)
    }
}

/// The type of a documented field. Each `from_` method reads one JSON type. By default it returns
/// `None`.
pub(crate) trait Read<'de>: Sized {
    /// The expected value, for messages: `a string`.
    const EXPECTED: &'static str;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        source: Source<'de>,
    ) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(Lenient(source, PhantomData))
    }

    fn from_bool(_: bool, _source: Source<'de>) -> Option<Self> {
        None
    }

    /// A number of any kind.
    fn from_number(_: Number, _source: Source<'de>) -> Option<Self> {
        None
    }

    fn from_text(_: Text<'de, '_>) -> Option<Self> {
        None
    }

    fn from_seq<A: SeqAccess<'de>>(seq: A, _source: Source<'de>) -> Result<Option<Self>, A::Error> {
        check_seq(seq).map(|()| None)
    }

    fn from_map<A: MapAccess<'de>>(map: A, _source: Source<'de>) -> Result<Option<Self>, A::Error> {
        check_map::<0, _>(map).map(|()| None)
    }
}

/// A string of the body.
pub(crate) enum Text<'de, 'v> {
    /// A slice of the body.
    InBody(&'de str),
    /// A string with escapes, decoded into a buffer that the reader reuses.
    Scratch(&'v str, Source<'de>),
}

impl<'de> Text<'de, '_> {
    /// The string, owned if it had escapes.
    pub(crate) fn into_cow(self) -> Cow<'de, str> {
        match self {
            Self::InBody(text) => Cow::Borrowed(text),
            Self::Scratch(text, _) => Cow::Owned(text.to_owned()),
        }
    }

    /// The string, with the lifetime of the body.
    pub(crate) fn keep(self) -> &'de str {
        match self {
            Self::InBody(text) => text,
            Self::Scratch(text, source) => source.strings.keep(text.to_owned()),
        }
    }
}

/// Reads an optional field. Another type than the documented one reads as `None`.
pub(crate) struct Field<'de, T>(Source<'de>, PhantomData<T>);

pub(crate) fn field<T>(source: Source<'_>) -> Field<'_, T> {
    Field(source, PhantomData)
}

impl<'de, T: Read<'de>> DeserializeSeed<'de> for Field<'de, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::read(deserializer, self.0)
    }
}

/// The visitor that calls the method of [`Read`] for the type of a value.
struct Lenient<'de, T>(Source<'de>, PhantomData<T>);

impl<'de, T: Read<'de>> Visitor<'de> for Lenient<'de, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::from_bool(value, self.0))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(T::from_number(value.into(), self.0))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(T::from_number(value.into(), self.0))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).and_then(|number| T::from_number(number, self.0)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(T::from_text(Text::InBody(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(T::from_text(Text::Scratch(value, self.0)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        T::from_seq(seq, self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::from_map(map, self.0)
    }
}

/// Reads a required field. Another type is an error with the path of the field.
pub(crate) struct RequiredField<'de, T> {
    path: &'static str,
    source: Source<'de>,
    r#type: PhantomData<T>,
}

pub(crate) fn required<'de, T>(path: &'static str, source: Source<'de>) -> RequiredField<'de, T> {
    RequiredField {
        path,
        source,
        r#type: PhantomData,
    }
}

impl<'de, T: Read<'de>> DeserializeSeed<'de> for RequiredField<'de, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match T::read(deserializer, self.source)? {
            Some(value) => Ok(Some(value)),
            None => Err(self
                .source
                .strings
                .field_error(self.path, format_args!("expected {}", T::EXPECTED))),
        }
    }
}

/// A field that distinguishes another type, `Typed(None)`, from an absent or null field.
pub(crate) struct Typed<T>(pub(crate) Option<T>);

impl<'de, T: Read<'de>> Read<'de> for Typed<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        source: Source<'de>,
    ) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_option(TypedVisitor(source, PhantomData))
    }
}

struct TypedVisitor<'de, T>(Source<'de>, PhantomData<T>);

impl<'de, T: Read<'de>> Visitor<'de> for TypedVisitor<'de, T> {
    type Value = Option<Typed<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::read(deserializer, self.0).map(|value| Some(Typed(value)))
    }
}

impl<'de> Read<'de> for &'de str {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(text.keep())
    }
}

/// A string that does not use the arena, because it can be read several times.
impl<'de> Read<'de> for Cow<'de, str> {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(text.into_cow())
    }
}

impl<'de> Read<'de> for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_number(value: Number, _: Source<'de>) -> Option<Self> {
        value.as_u64()
    }
}

impl<'de> Read<'de> for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_bool(value: bool, _: Source<'de>) -> Option<Self> {
        Some(value)
    }
}

impl<'de, T: Read<'de>> Read<'de> for Box<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        source: Source<'de>,
    ) -> Result<Option<Self>, D::Error> {
        Ok(T::read(deserializer, source)?.map(Self::new))
    }
}

/// The elements with the documented type. The others are left out.
impl<'de, T: Read<'de>> Read<'de> for Vec<T> {
    const EXPECTED: &'static str = "an array";

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(field(source))? {
            items.extend(item);
        }
        Ok(Some(items))
    }
}

/// An id: a string, or the JSON text of another value. The Hub once sent ids as `{"buffer": "..."}`,
/// and these deliveries must stay readable.
pub(crate) struct Id<'a>(&'a str);

impl<'a> Id<'a> {
    pub(crate) fn text(self) -> &'a str {
        self.0
    }

    fn json(value: &Value, source: Source<'a>) -> Self {
        Self(source.strings.keep(value.to_string()))
    }
}

impl<'de> Read<'de> for Id<'de> {
    const EXPECTED: &'static str = "an id";

    fn from_bool(value: bool, source: Source<'de>) -> Option<Self> {
        Some(Self::json(&value.into(), source))
    }

    fn from_number(value: Number, source: Source<'de>) -> Option<Self> {
        Some(Self::json(&value.into(), source))
    }

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self(text.keep()))
    }

    fn from_seq<A: SeqAccess<'de>>(seq: A, source: Source<'de>) -> Result<Option<Self>, A::Error> {
        Ok(Value::from_seq(seq, source)?.map(|value| Self::json(&value, source)))
    }

    fn from_map<A: MapAccess<'de>>(map: A, source: Source<'de>) -> Result<Option<Self>, A::Error> {
        Ok(Value::from_map(map, source)?.map(|value| Self::json(&value, source)))
    }
}

/// Any value; null reads as `None`. `Value` has its own `Deserialize`, but it treats an internal key of
/// serde_json (`$serde_json::private::RawValue`) in a special way.
impl<'de> Read<'de> for Value {
    const EXPECTED: &'static str = "any value";

    fn from_bool(value: bool, _: Source<'de>) -> Option<Self> {
        Some(Self::Bool(value))
    }

    fn from_number(value: Number, _: Source<'de>) -> Option<Self> {
        Some(Self::Number(value))
    }

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self::String(text.into_cow().into_owned()))
    }

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(field(source))? {
            items.push(item.unwrap_or(Self::Null));
        }
        Ok(Some(Self::Array(items)))
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        let mut pairs = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(field(source))?;
            pairs.insert(key, value.unwrap_or(Self::Null));
        }
        Ok(Some(Self::Object(pairs)))
    }
}

/// The text of a value, unchecked.
impl<'de> Read<'de> for &'de RawValue {
    const EXPECTED: &'static str = "any value";

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        _: Source<'de>,
    ) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

/// Parse a text as JSON. Invalid text gives null, but callers pass only checked text.
#[cfg(feature = "python")]
pub(crate) fn value_of(json: &str) -> Value {
    let strings = StringArena::default();
    let source = Source {
        text: json,
        strings: &strings,
    };
    let value = field(source).deserialize(&mut source.reader());
    value.ok().flatten().unwrap_or_default()
}

/// Any value, checked and dropped. `serde::de::IgnoredAny` skips text, and would not check the depth
/// and the numbers.
///
/// `COPY` gives the list of a bucket's files its own copy of the code, which the compiler inlines.
/// Without it, the bucket in `benches/parse.py` takes 0.63 instead of 0.56 ms.
pub(crate) struct Validate<const COPY: u8 = 0>;

impl<'de, const COPY: u8> Read<'de> for Validate<COPY> {
    const EXPECTED: &'static str = "any value";

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        _: Source<'de>,
    ) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

impl<'de, const COPY: u8> Deserialize<'de> for Validate<COPY> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de, const COPY: u8> Visitor<'de> for Validate<COPY> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(<Self as Read>::EXPECTED)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self, A::Error> {
        check_seq(seq)?;
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self, A::Error> {
        check_map::<0, _>(map)?;
        Ok(self)
    }
}

fn check_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<Validate>()?.is_some() {}
    Ok(())
}

pub(crate) fn check_map<'de, const COPY: u8, A: MapAccess<'de>>(
    mut map: A,
) -> Result<(), A::Error> {
    while map
        .next_entry::<Validate<COPY>, Validate<COPY>>()?
        .is_some()
    {}
    Ok(())
}

/// Read the documented keys of an object, in any order, into variables. The values of other keys are
/// only checked. The last one of equal keys counts, as in `json.loads`, so fields agree with `to_dict`.
///
/// `read_object!(map, source, { "web" => web, "api" => api required at "url.api" })` expands to:
///
/// ```text
/// enum Key { web, api, undocumented }
///
/// let mut web = None;
/// let mut api = None;
/// while let Some(key) = map.next_key()? {
///     match key {
///         Key::web => web = map.next_value_seed(field(source))?,
///         Key::api => api = map.next_value_seed(required("url.api", source))?,
///         Key::undocumented => { map.next_value::<Validate>()?; }
///     }
/// }
/// ```
macro_rules! read_object {
    (@seed $source:ident) => {
        $crate::read::field($source)
    };
    (@seed $source:ident $path:literal) => {
        $crate::read::required($path, $source)
    };
    ($map:ident, $source:ident, { $($key:literal => $slot:ident $(required at $path:literal)?),* $(,)? }) => {
        #[derive(serde::Deserialize)]
        #[serde(field_identifier)]
        #[allow(non_camel_case_types, reason = "each key has the name of its variable")]
        enum Key {
            $(#[serde(rename = $key)] $slot,)*
            #[serde(other)]
            undocumented,
        }

        $(let mut $slot = None;)*
        while let Some(key) = $map.next_key()? {
            match key {
                $(Key::$slot => $slot = $map.next_value_seed($crate::read::read_object!(@seed $source $($path)?))?,)*
                Key::undocumented => {
                    $map.next_value::<$crate::read::Validate>()?;
                }
            }
        }
    };
}
pub(crate) use read_object;
