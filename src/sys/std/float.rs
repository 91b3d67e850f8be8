//! What `core` cannot do with floating point. Only the runtime does it, so that it is compiled here but not linked.

pub trait Float: Sized {
    fn log2(self) -> Self {
        unreachable!("the runtime's")
    }

    fn ceil(self) -> Self {
        unreachable!("the runtime's")
    }

    fn powf(self, _: Self) -> Self {
        unreachable!("the runtime's")
    }
}

impl Float for f64 {}
