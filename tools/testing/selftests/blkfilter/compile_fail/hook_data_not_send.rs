// SPDX-License-Identifier: GPL-2.0
//~ E0277: what is remembered of a bio goes to another CPU
impl EndIo for Other {
    type Data = *mut u8; //~ bad
    type Data = u8; //~ good

    fn end_io(_this: Pin<&Self>, _bio: CompletedBio<'_>, _data: Self::Data) {}
}
