"""Pretrained weights: files read without running code, downloads with their hash checked, and every tensor accounted for."""
