// SPDX-License-Identifier: GPL-2.0
//~ E0080: what is remembered of a bio is aligned as a u64
#[derive(Default)]
#[repr(align(16))]
struct Aligned(u8);

impl EndIo for Good {
    type Data = Aligned; //~ bad
    type Data = u8; //~ good

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: Self::Data) {}
}

pub fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    bio.pass_armed(Default::default())
        .unwrap_or_else(|(bio, _)| bio.pass())
}
