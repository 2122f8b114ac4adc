"use client";
import { smartserveLoader } from "smartserve-image/next";
export default smartserveLoader("http://img.test");
