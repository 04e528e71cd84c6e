// SPDX-License-Identifier: GPL-2.0
//~ E0080: what is remembered of a bio has 16 bytes
impl EndIo for Good {
    type Data = [u64; 3]; //~ bad
    type Data = [u64; 2]; //~ good

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: Self::Data) {}
}

pub fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    bio.pass_armed(Default::default())
        .unwrap_or_else(|(bio, _)| bio.pass())
}
