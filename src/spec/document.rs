//! JSON documents as Go's decoder reads them, since they are written for it, and no less strictly.
//!
//! serde's derived code accepts an array in place of an object, with its elements for the fields in the order of the
//! Rust source. And it knows a field by one spelling only, while Go's decoder ignores upper and lower case. A layer
//! between the parser and the derived code changes both, for all types at once.
//!
//! A NUL byte is refused in every text. Names, paths and lines go to the kernel, for which it would be the end.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde_json::Value;

/// The parser's result, for types that derive `Deserialize`.
pub struct Document<D>(pub D);

/// Forwards to the visitor of the derived code. `fields`: the visitor wants an object with these fields.
struct Strict<V> {
    visitor: V,
    fields: &'static [&'static str],
}

macro_rules! forward {
    ($($method:ident($($arg:ident: $type:ty),*)),+ $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($arg,)* Strict { visitor, fields: &[] })
        }
    )+};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Document<D> {
    type Error = D::Error;

    forward! {
        deserialize_any(), deserialize_bool(), deserialize_i8(), deserialize_i16(), deserialize_i32(), deserialize_i64(),
        deserialize_i128(), deserialize_u8(), deserialize_u16(), deserialize_u32(), deserialize_u64(), deserialize_u128(),
        deserialize_f32(), deserialize_f64(), deserialize_char(), deserialize_str(), deserialize_string(),
        deserialize_bytes(), deserialize_byte_buf(), deserialize_option(), deserialize_unit(), deserialize_seq(),
        deserialize_map(), deserialize_identifier(), deserialize_ignored_any(),
        deserialize_unit_struct(name: &'static str), deserialize_newtype_struct(name: &'static str),
        deserialize_tuple(len: usize), deserialize_tuple_struct(name: &'static str, len: usize),
        deserialize_enum(name: &'static str, variants: &'static [&'static str]),
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // Not `deserialize_struct`, which accepts arrays.
        self.0.deserialize_map(Strict { visitor, fields })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident: $type:ty),+ $(,)?) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )+};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128, visit_u8: u8,
        visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128, visit_f32: f32, visit_f64: f64, visit_char: char,
        visit_bytes: &[u8],
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        self.visitor.visit_str(without_nul(text)?)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<V::Value, E> {
        self.visitor.visit_borrowed_str(without_nul(text)?)
    }

    fn visit_string<E: Error>(self, text: String) -> Result<V::Value, E> {
        without_nul(&text)?;
        self.visitor.visit_string(text)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Document(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Document(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        if !self.fields.is_empty() {
            return Err(Error::invalid_type(Unexpected::Seq, &self));
        }
        self.visitor.visit_seq(Access { access, fields: &[] })
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Access { access, fields: self.fields })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Access { access, fields: &[] })
    }
}

fn without_nul<E: Error>(text: &str) -> Result<&str, E> {
    match text.contains('\0') {
        true => Err(E::custom(format_args!("{text:?} contains a NUL byte"))),
        false => Ok(text),
    }
}

/// The parts of an array, an object or an enum, each of which is a document again.
struct Access<A> {
    access: A,
    fields: &'static [&'static str],
}

struct Seed<S> {
    seed: S,
    fields: &'static [&'static str],
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        match self.fields {
            [] => self.seed.deserialize(Document(deserializer)),
            fields => self.seed.deserialize(Key { deserializer, fields }),
        }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Access<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.access.next_element_seed(Seed { seed, fields: &[] })
    }

    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Access<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.access.next_key_seed(Seed { seed, fields: self.fields })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.access.next_value_seed(Seed { seed, fields: &[] })
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Access<A> {
    type Error = A::Error;
    type Variant = Access<A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), A::Error> {
        let (value, access) = self.access.variant_seed(Seed { seed, fields: &[] })?;
        Ok((value, Access { access, fields: &[] }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Access<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.access.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.access.newtype_variant_seed(Seed { seed, fields: &[] })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.access.tuple_variant(len, Strict { visitor, fields: &[] })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.access.struct_variant(fields, Strict { visitor, fields })
    }
}

/// A name in an object for a struct.
struct Key<D> {
    deserializer: D,
    fields: &'static [&'static str],
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserializer.deserialize_identifier(Field { visitor, fields: self.fields })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Field<V> {
    visitor: V,
    fields: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Field<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        let known = self.fields.iter().copied();
        let same = known
            .clone()
            .find(|field| *field == name)
            .or_else(|| known.into_iter().find(|f| f.eq_ignore_ascii_case(name)));
        match same {
            // This error tells which fields the object may have: `super::fields_of` asks for it.
            None if name.contains('\0') => Err(E::unknown_field(name, self.fields)),
            same => self.visitor.visit_str(same.unwrap_or(name)),
        }
    }
}

/// Merges names of one object that differ only in case, such as `cpu` and `CPU`. Two objects are merged; otherwise the
/// last value counts.
pub fn merged(text: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Merged { any_case: true }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    serde_json::to_vec(&value)
}

/// In these objects the names are no fields, so their case matters.
pub const MAPS: [&str; 6] = ["annotations", "netDevices", "rdma", "sysctl", "timeOffsets", "unified"];

#[derive(Clone, Copy)]
struct Merged {
    any_case: bool,
}

impl<'de> DeserializeSeed<'de> for Merged {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merged {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(Merged { any_case: true })? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some(name) = access.next_key_seed(PhantomData::<String>)? {
            let any_case = !MAPS.iter().any(|map| map.eq_ignore_ascii_case(&name));
            let value = access.next_value_seed(Merged { any_case })?;
            merge(&mut map, name, value, self.any_case);
        }
        Ok(map.into())
    }
}

fn merge(map: &mut serde_json::Map<String, Value>, name: String, value: Value, any_case: bool) {
    // Objects of free names may have very many.
    let same = if any_case { map.keys().find(|other| other.eq_ignore_ascii_case(&name)) } else { None };
    let name = same.cloned().unwrap_or(name);
    match (map.get_mut(&name), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let any_case = !MAPS.iter().any(|map| map.eq_ignore_ascii_case(&name));
            new.into_iter().for_each(|(name, value)| merge(old, name, value, any_case));
        }
        (_, value) => drop(map.insert(name, value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Process, Resources, Spec, parse};
    use super::*;

    /// Everything that a document may contain, by the types' own field names.
    const EVERYTHING: &str = r#"{
        "devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
        "memory": {"limit": 1, "reservation": 2, "swap": 3, "kernel": 4, "kernelTCP": 5, "swappiness": 6,
                   "disableOOMKiller": true, "useHierarchy": true, "checkBeforeUpdate": true},
        "cpu": {"shares": 1, "quota": 2, "burst": 3, "period": 4, "realtimeRuntime": 5, "realtimePeriod": 6,
                "cpus": "0", "mems": "1", "idle": 1},
        "pids": {"limit": 1},
        "blockIO": {"weight": 1, "leafWeight": 2, "weightDevice": [{"major": 1, "minor": 2, "weight": 3, "leafWeight": 4}],
                    "throttleReadBpsDevice": [{"major": 1, "minor": 2, "rate": 3}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        "rdma": {"limit": {"hcaHandles": 1, "hcaObjects": 2}},
        "unified": {"Memory": "1"}
    }"#;

    fn upper(value: Value, keep: bool) -> Value {
        match value {
            Value::Array(list) => list.into_iter().map(|value| upper(value, false)).collect(),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| {
                    let value = upper(value, key == "unified" || key == "rdma");
                    (if keep { key } else { key.to_uppercase() }, value)
                })
                .collect(),
            other => other,
        }
    }

    #[test]
    fn the_case_of_fields_does_not_matter_and_that_of_other_names_does() {
        let expected: Resources = parse(EVERYTHING.as_bytes()).unwrap();
        assert_eq!(expected.memory.as_ref().unwrap().kernel_tcp, Some(5));
        let upper = upper(serde_json::from_str(EVERYTHING).unwrap(), false).to_string();
        assert!(upper.contains("\"CLASSID\"") && upper.contains("\"limit\":{\"HCAHANDLES\""), "{upper}");
        assert_eq!(parse::<Resources>(upper.as_bytes()).unwrap(), expected);
        let spec: Spec = parse(br#"{"OciVersion":"1","Annotations":{"A":"1","a":"2"}}"#).unwrap();
        assert_eq!((spec.oci_version.as_str(), spec.annotations.len()), ("1", 2));
    }

    /// Replaces every object of `value` by an array.
    fn with_arrays(value: &Value, wrong: &mut Vec<(String, Value)>, at: &str, whole: &Value) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect(),
            Value::Array(list) => list.iter().enumerate().map(|(i, value)| (format!("{at}/{i}"), value)).collect(),
            _ => return,
        };
        if let Value::Object(map) = value {
            for list in [json!([]), map.values().cloned().collect()] {
                let mut changed = whole.clone();
                *changed.pointer_mut(at).unwrap() = list;
                wrong.push((at.to_owned(), changed));
            }
        }
        children.into_iter().for_each(|(at, value)| with_arrays(value, wrong, &at, whole));
    }

    #[test]
    fn an_array_is_no_object() {
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 1, "gid": 1}, "cwd": "/", "consoleSize": {"height": 1, "width": 1},
                "capabilities": {"bounding": []}, "rlimits": [{"type": "x", "hard": 1, "soft": 1}],
                "scheduler": {"policy": "x"}, "ioPriority": {"class": "x"}, "execCPUAffinity": {"initial": "1"}
            },
            "root": {"path": "x"},
            "mounts": [{"destination": "/x", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}],
            "hooks": {"poststop": [{"path": "x"}]},
            "annotations": {"a": "b"},
            "linux": {
                "namespaces": [{"type": "pid"}], "devices": [{"path": "x"}], "netDevices": {"a": {"name": "b"}},
                "seccomp": {"syscalls": [{"names": [], "args": [{"index": 1}]}]}, "intelRdt": {}, "memoryPolicy": {},
                "personality": {}, "timeOffsets": {"boottime": {"secs": 1}}, "sysctl": {"a": "b"},
                "resources": serde_json::from_str::<Value>(EVERYTHING).unwrap()
            }
        });
        parse::<Spec>(spec.to_string().as_bytes()).unwrap();
        let mut wrong = Vec::new();
        with_arrays(&spec, &mut wrong, "", &spec);
        assert!(wrong.len() > 70, "{}", wrong.len());
        for (at, document) in wrong {
            let error = parse::<Spec>(document.to_string().as_bytes()).unwrap_err().to_string();
            let expected =
                if at.is_empty() { "expected an object" } else { &format!("{at}: an array, but expected an object") };
            assert!(error.contains(expected), "{at}: {error}");
        }
    }

    #[test]
    fn what_is_there_twice_is_merged_or_the_last() {
        let spec: Spec = parse(
            br#"{"hostname":"a","process":{"args":["x","y"],"cwd":"/"},"linux":{"resources":{"cpu":{"shares":1},"CPU":{"Cpus":"0"}},
                "sysctl":{"a":"1","A":"2","a":"3"}},"Process":{"ARGS":["z"]},"hostname":"b"}"#,
        )
        .unwrap();
        let process = spec.process.unwrap();
        assert_eq!(
            (spec.hostname.as_deref(), process.cwd.as_str(), &process.args[..]),
            (Some("b"), "/", &["z".into()][..])
        );
        let cpu = spec.linux.resources.unwrap().cpu.unwrap();
        assert_eq!((cpu.shares, cpu.cpus.as_str()), (Some(1), "0"));
        assert_eq!(
            spec.linux.sysctl.into_iter().collect::<Vec<_>>(),
            [("A".into(), "2".into()), ("a".into(), "3".into())]
        );
        let error = parse::<Spec>(br#"{"linux":{"resources":{"cpu":{"shares":1},"CPU":{"shares":"x"}}}}"#).unwrap_err();
        assert!(error.to_string().starts_with("/linux/resources/cpu/shares: "), "{error}");
        let error = parse::<Spec>(br#"{"hostname":"a","hostname":"b"} x"#).unwrap_err();
        assert!(error.to_string().contains("trailing characters"), "{error}");
    }

    #[test]
    fn no_text_has_a_nul_byte() {
        for (text, at) in [
            (r#"{"hostname":"a\u0000b"}"#, "/hostname"),
            (r#"{"linux":{"sysctl":{"net.x":"\u0000"}}}"#, "/linux/sysctl/net.x"),
            (r#"{"linux":{"sysctl":{"net.\u0000":"x"}}}"#, "/linux/sysctl"),
            (r#"{"mounts":[{"options":["ro","\u0000"]}]}"#, "/mounts/0/options/1"),
        ] {
            let error = parse::<Spec>(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(at) && error.contains("contains a NUL byte"), "{text}: {error}");
        }
        assert!(parse::<Process>(br#"{"args":["a\u0000"]}"#).is_err());
        let error = parse::<Spec>(br#"{"root":{"pa\u0000th":"x"}}"#).unwrap_err().to_string();
        assert!(error.starts_with("/root/pa") && error.contains("unknown field"), "{error}");
    }
}
