// SPDX-License-Identifier: GPL-2.0
//~ E0599: who arms a bio has a function for its end
impl EndIo for Good {
    type Data = u64;

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: u64) {}
}

fn submit<'cb>(other: IncomingBio<'cb, Other>, good: Incoming<'cb>) {
    let _ = other.pass_armed(0); //~ bad
    let _ = good.pass_armed(0); //~ good
}
