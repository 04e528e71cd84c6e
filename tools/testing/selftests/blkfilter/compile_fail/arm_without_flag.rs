// SPDX-License-Identifier: GPL-2.0
//~ E0080: a filter that arms bios says so
impl EndIo for Other {
    type Data = u64;

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: u64) {}
}

pub fn submit_bio<'cb>(bio: IncomingBio<'cb, Other>) -> Verdict<'cb> {
    bio.pass_armed(0).unwrap_or_else(|(bio, _)| bio.pass()) //~ bad
    bio.pass() //~ good
}
